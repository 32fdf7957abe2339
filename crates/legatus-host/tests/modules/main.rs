//! External modules of all kinds, end to end: this program is the server, and its own module host.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of this is a test, which clippy sees only with the standard harness"
)]

mod guests;
mod hostile_native;
mod hostile_wasm;
mod kit;
mod panics;
mod refused;
mod useful;
mod worlds;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Trials named after the functions that they run.
macro_rules! trials {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(Trial::test(concat!(stringify!($module), "::", stringify!($name)), || {
            run($module::$name());
            Ok(())
        })),*]
    };
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("module-host") {
        return legatus_host::external::module_host_main();
    }
    // For trying the program by hand: a component with both halves. And a file of the SDK.
    let asked = |what| std::env::args().skip_while(move |word| word != what).nth(1);
    let made = asked("make-pair").map(|path| std::fs::write(path, useful::pair()));
    let made = made.or_else(|| Some(std::fs::write(asked("make-worlds")?, worlds::text())));
    if let Some(made) = made {
        return made.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    if !cfg!(feature = "wasm-compiler") {
        println!("without a compiler there is nothing to test");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    trials![
        hostile_wasm::what_loops_for_ever_ends_at_its_limit_and_others_go_on,
        hostile_wasm::what_waits_for_ever_ends_when_its_call_is_cancelled,
        hostile_wasm::what_takes_too_much_memory_is_told_its_limit,
        hostile_wasm::what_recurses_traps_or_panics_is_a_failed_call,
        hostile_wasm::what_floods_the_log_is_cut_off,
        hostile_wasm::what_floods_the_peer_waits_for_it,
        hostile_wasm::what_never_reads_holds_nobody,
        hostile_wasm::a_client_half_opens_no_file_that_the_user_did_not_name,
        hostile_native::what_crashes_is_a_failed_call_that_tells_how,
        hostile_native::what_loops_or_recurses_or_takes_too_much_ends,
        hostile_native::what_does_not_end_when_cancelled_is_killed_with_all_that_it_started,
        hostile_native::what_was_not_granted_cannot_be_reached,
        hostile_native::what_was_granted_can_be_reached,
        hostile_native::floods_and_garbage_hurt_nobody,
        refused::artefacts_that_are_none,
        refused::manifests_that_lie,
        refused::what_others_could_change,
        refused::other_versions_of_the_contract,
        refused::halves_and_exports_that_are_not_there,
        refused::names_that_are_taken_or_malformed,
        refused::what_is_not_signed_where_signatures_are_asked_for,
        refused::native_code_unless_it_is_allowed,
        refused::a_broken_module_does_not_disturb_the_others,
        useful::a_component_echoes_large_input,
        useful::a_plain_command_writes_to_its_caller,
        useful::a_library_echoes_large_input_and_tells_faults,
        useful::an_executable_speaks_the_protocol,
        useful::both_halves_of_a_component_talk_to_each_other,
        useful::a_client_half_is_handed_out_by_its_digest_only,
        useful::what_changes_takes_effect_and_running_calls_keep_the_old_one,
        useful::what_was_compiled_once_is_not_compiled_again,
        useful::a_module_of_the_first_contract_still_loads,
        panics::of_a_component_are_logged_with_its_frames,
        panics::of_an_executable_are_logged_to_the_last,
        panics::of_a_library_in_rust_are_logged_with_its_frames,
        panics::of_a_library_in_c_are_logged,
        worlds::those_of_the_sdk_are_those_of_the_contract,
        worlds::one_of_the_sdk_makes_a_component_that_loads,
    ]
}

fn run(trial: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(trial);
}
