//! What is made before the crate is compiled: the server's pages. A client alone has none.

#[cfg(feature = "server")]
#[path = "build/pages.rs"]
mod pages;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "server")]
    pages::pack()?;
    Ok(())
}
