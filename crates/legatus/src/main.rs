//! The program `legatus`; everything is in the library of the same name.

use std::process::ExitCode;

/// Data messages are hundreds of KiB long. The C library's allocator gives memory of that size back
/// to the system again and again, and getting it anew costs more than copying into it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    legatus::main()
}
