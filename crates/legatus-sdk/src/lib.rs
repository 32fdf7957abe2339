//! Modules for Legatus in Rust: implement [`Module`] and its halves, and export them with
//! [`module!`] from a crate of the type `cdylib`. The same source makes a library of the C contract
//! and, compiled for WebAssembly, a component.
//!
//! ```
//! use legatus_sdk::{Call, Commander, Description, Fault, Host, Module, module};
//!
//! struct Hello;
//!
//! impl Module for Hello {
//!     fn describe() -> Description {
//!         Description::new("hello", "1.0.0", "Greet the caller")
//!     }
//! }
//!
//! impl Commander for Hello {
//!     fn execute(call: &Call, host: &mut Host) -> Result<u8, Fault> {
//!         host.send(format!("hello, {}\n", call.peer).as_bytes())?;
//!         Ok(0)
//!     }
//! }
//!
//! module!(commander: Hello);
//! ```
//!
//! It depends on nothing, so that a project may hold a copy of it. A panic becomes a fault: its
//! message and its backtrace go to the log of the host.

mod description;
mod entries;
mod host;
#[cfg(not(target_family = "wasm"))]
mod native;
mod panics;
/// What [`module!`] exports in WebAssembly.
#[cfg(any(target_family = "wasm", test))]
#[doc(hidden)]
pub mod wasm;

pub use description::{Argument, Description, Effects, Kind, Value};
pub use entries::Entry;
pub use host::{Call, ChannelError, Client, Fault, File, Given, Host, Level, Outcome};
#[cfg(not(target_family = "wasm"))]
pub use native::{ABI, Library, library};

/// What a module is.
pub trait Module {
    /// Tells what the module is.
    fn describe() -> Description;
}

/// A module's server half.
pub trait Commander: Module {
    /// Does what was asked; returns the exit status.
    ///
    /// # Errors
    /// What the caller may be told.
    fn execute(call: &Call, host: &mut Host) -> Result<u8, Fault>;
}

/// A module's client half. Without one the generic client half is used: arguments to the server
/// half, standard input in, messages out, exit status.
pub trait Sender: Module {
    /// Turns the user's arguments into a call, and returns how it ended.
    ///
    /// # Errors
    /// What the user is told.
    fn send(arguments: &[Given], client: &mut Client) -> Result<Outcome, Fault>;
}

/// Exports modules: `module!(commander: A, B; sender: A)`. Either list may be left out; a type that
/// is in both is a module with both halves.
#[macro_export]
macro_rules! module {
    (commander: $($commander:ty),+ $(,)? ; sender: $($sender:ty),+ $(,)?) => {
        $crate::module!(@entries
            $($crate::Entry::commander::<$commander>(),)+ $($crate::Entry::sender::<$sender>(),)+);
        $crate::module!(@commander);
        $crate::module!(@sender);
        $crate::module!(@world MODULE);
    };
    (commander: $($commander:ty),+ $(,)?) => {
        $crate::module!(@entries $($crate::Entry::commander::<$commander>(),)+);
        $crate::module!(@commander);
        $crate::module!(@world COMMANDER_MODULE);
    };
    (sender: $($sender:ty),+ $(,)?) => {
        $crate::module!(@entries $($crate::Entry::sender::<$sender>(),)+);
        $crate::module!(@sender);
        $crate::module!(@world SENDER_MODULE);
    };
    (@entries $($entry:expr,)+) => {
        static LEGATUS_ENTRIES: &[$crate::Entry] = &[$($entry),+];

        /// The one symbol of a library.
        #[cfg(not(target_family = "wasm"))]
        #[unsafe(no_mangle)]
        pub extern "C" fn legatus_modules(abi: u32) -> *const $crate::Library {
            $crate::library(abi, LEGATUS_ENTRIES)
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            #[unsafe(export_name = "cabi_realloc")]
            unsafe extern "C" fn allocate(
                old: *mut u8, old_size: usize, align: usize, size: usize,
            ) -> *mut u8 {
                // SAFETY: the host passes what the canonical ABI says.
                unsafe { $crate::wasm::allocate(old, old_size, align, size) }
            }

            #[unsafe(export_name = "legatus:module/descriptions@1.0.0#describe")]
            extern "C" fn describe() -> *const $crate::wasm::Slice {
                $crate::wasm::describe(LEGATUS_ENTRIES)
            }
        };
    };
    (@commander) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            #[unsafe(export_name = "legatus:module/commander@1.0.0#execute")]
            extern "C" fn execute(
                module: *const u8, module_length: usize,
                id: *const u8, id_length: usize,
                peer: *const u8, peer_length: usize,
                arguments: *const u8, argument_count: usize,
                has_time: u32, milliseconds: u64,
            ) -> *const $crate::wasm::Executed {
                use $crate::wasm::slice;
                $crate::wasm::execute(LEGATUS_ENTRIES, &$crate::wasm::CallTold {
                    module: slice(module, module_length),
                    id: slice(id, id_length),
                    peer: slice(peer, peer_length),
                    arguments: slice(arguments, argument_count),
                    has_time,
                    milliseconds,
                })
            }
        };
    };
    (@sender) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            #[unsafe(export_name = "legatus:module/sender@1.0.0#send")]
            extern "C" fn send(
                module: *const u8, module_length: usize,
                arguments: *const u8, argument_count: usize,
            ) -> *const $crate::wasm::SendEnded {
                use $crate::wasm::slice;
                let module = slice(module, module_length);
                let arguments = slice(arguments, argument_count);
                $crate::wasm::send(LEGATUS_ENTRIES, module, arguments)
            }
        };
    };
    (@world $world:ident) => {
        /// Tells the linker what the component imports and exports.
        #[cfg(target_family = "wasm")]
        #[unsafe(link_section = "component-type:legatus:module")]
        #[used]
        static LEGATUS_WORLD: [u8; $crate::wasm::$world.len()] = *$crate::wasm::$world;
    };
}
