//! What is made before the crate is compiled: the server's pages.

#[path = "build/pages.rs"]
mod pages;

fn main() -> std::io::Result<()> {
    pages::pack()
}
