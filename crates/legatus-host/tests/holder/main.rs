//! Calls in holders, end to end: this program is the server, and its own holder.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of this is a test, which clippy sees only with the standard harness"
)]

mod calls;
mod failures;
mod lifetimes;
mod subject;
mod users;

use std::future::Future;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use legatus_core::Registry;
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
    let mut registry = Registry::new();
    registry.add(subject::module()).expect("it is the only one");
    match std::env::args().nth(1).as_deref() {
        Some("holder") => return legatus_host::holder_main(&registry),
        Some("script") => return script(),
        Some("server") => return run(lifetimes::server()),
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    // Some trials count what this process has open.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials()).exit_code()
}

/// Holders that are a shell script, the program's second argument: its standard input is the data
/// socket, its standard output the control socket.
fn script() -> ExitCode {
    let text = std::env::args().nth(2).expect("a script");
    let newborn = legatus_host::fork_on_request().expect("a socket");
    let Some(newborn) = newborn else {
        return ExitCode::SUCCESS;
    };
    let mut descriptors = newborn.descriptors.into_iter();
    let mut next = || Stdio::from(descriptors.next().expect("two sockets"));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &text]).stdin(next()).stdout(next());
    panic!("{}", shell.exec());
}

fn trials() -> Vec<Trial> {
    trials![
        failures::a_program_that_does_not_exist_makes_the_call_unavailable,
        failures::a_holder_that_exits_at_once_is_lost_with_its_status,
        failures::a_holder_that_is_killed_is_lost_with_its_signal,
        failures::a_frame_longer_than_the_limit_gets_its_holder_killed,
        failures::a_slot_that_does_not_exist_gets_its_holder_killed,
        failures::a_release_of_slots_that_are_free_gets_its_holder_killed,
        failures::an_outcome_that_is_garbage_gets_its_holder_killed,
        failures::a_holder_that_closes_its_sockets_and_lives_on_is_killed,
        failures::a_panic_is_a_failed_call,
        failures::a_module_that_the_holder_lacks_makes_the_call_unavailable,
        failures::a_holder_started_by_hand_says_so_and_fails,
        calls::messages_of_all_sizes_come_back_whole_and_in_order,
        calls::messages_are_whole_without_shared_memory_too,
        calls::the_call_arrives_with_everything_the_server_knows,
        calls::a_request_of_the_greatest_size_arrives,
        calls::a_control_reaches_a_commander_that_does_not_read_its_messages,
        calls::a_commander_that_stops_reading_stops_its_sender,
        calls::a_client_that_stops_reading_stops_the_commander,
        calls::the_outcome_comes_behind_all_messages,
        calls::messages_kept_for_long_delay_but_do_not_lose_others,
        calls::a_holder_has_none_of_the_servers_descriptors_or_terminal,
        lifetimes::cancellation_reaches_a_commander_that_does_not_read_its_messages,
        lifetimes::a_commander_that_ignores_its_cancellation_is_dropped,
        lifetimes::a_holder_that_ignores_its_cancellation_is_killed,
        lifetimes::a_cancelled_call_ends_though_its_client_does_not_read,
        lifetimes::a_goodbye_to_a_kept_call_is_heard_after_its_clients_stream_has_gone,
        lifetimes::a_dropped_call_is_cleaned_up_and_reaped,
        lifetimes::a_killed_server_leaves_no_holder_behind,
        lifetimes::a_fork_server_that_was_killed_is_replaced,
        lifetimes::a_thousand_calls_leave_no_descriptor_and_no_process,
        users::a_holder_becomes_its_user_for_good_or_does_nothing,
        users::a_user_without_a_home_works_in_the_root_folder,
    ]
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built")
        .block_on(future)
}
