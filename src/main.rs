//! The server's program. Everything it does is in the library, where tests reach it.

use std::process::ExitCode;

/// glibc keeps the memory of a disconnect storm in its arenas; mimalloc gives it back. The figures
/// are in PERF.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fanfare::cli::main()
}
