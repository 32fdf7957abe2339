//! External modules of all kinds, end to end: this program is the server, and its own module host.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of this is a test, which clippy sees only with the standard harness"
)]

mod denied;
mod guests;
mod hostile_native;
mod hostile_wasm;
mod install;
mod kit;
mod panics;
mod refused;
mod useful;
mod users;
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
    // For checks and benchmarks: guests that need no toolchain, `make-guest pair|echo|plain FILE`; and a
    // file of the SDK, `make-guest worlds FILE`.
    let mut words = std::env::args().skip_while(|word| word != "make-guest");
    if let (Some(name), Some(path)) = (words.nth(1), words.next()) {
        let guest = match name.as_str() {
            "pair" => useful::pair(),
            "worlds" => worlds::text().into(),
            "echo" => guests::Wat::new("echo-wasm", guests::ECHO).component(),
            "plain" => guests::command("(i32.const 0)"),
            _ => return ExitCode::FAILURE,
        };
        return match std::fs::write(path, guest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
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
        hostile_wasm::a_client_half_from_a_server_cannot_read_the_users_key,
        hostile_native::what_crashes_is_a_failed_call_that_tells_how,
        hostile_native::what_loops_or_recurses_or_takes_too_much_ends,
        hostile_native::what_does_not_end_when_cancelled_is_killed_with_all_that_it_started,
        hostile_native::what_was_not_granted_cannot_be_reached,
        hostile_native::what_was_granted_can_be_reached,
        hostile_native::floods_and_garbage_hurt_nobody,
        denied::a_guest_without_files_is_told_so_and_the_log_too,
        denied::what_a_library_asks_for_in_vain_is_in_the_log,
        denied::what_lies_beside_a_granted_folder_is_denied_as_well,
        denied::a_file_is_not_given_to_webassembly_which_is_told,
        denied::nobody_is_granted_what_leads_to_processes,
        install::what_arrives_takes_its_place_and_can_be_called,
        install::what_cannot_be_used_leaves_everything_as_it_was,
        install::what_may_not_run_is_not_installed,
        install::a_module_that_somebody_else_has_put_there_is_not_replaced,
        users::a_component_touches_files_in_the_rights_of_its_calls_user,
        users::an_identity_without_a_user_calls_no_module_of_any_kind,
        users::a_library_runs_as_the_user_of_its_caller_for_good,
        refused::what_is_replaced_while_it_is_loaded,
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
        useful::what_an_executable_says_after_its_call_has_ended_counts_for_nothing,
        useful::a_call_tells_what_it_took_of_its_limits,
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
