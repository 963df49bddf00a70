//! What is made before the crate is compiled: the server's pages. A client alone has none.

#[cfg(feature = "server")]
#[path = "build/pages.rs"]
mod pages;

#[cfg(feature = "server")]
fn main() -> std::io::Result<()> {
    pages::pack()
}

#[cfg(not(feature = "server"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
