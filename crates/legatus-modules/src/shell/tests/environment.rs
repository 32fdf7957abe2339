//! Environment and working directory.

use super::*;

#[tokio::test]
async fn a_directory_that_does_not_exist_is_told() {
    let local = MemoryLocal::new();
    let outcome = run(command(&["pwd"]).with("cwd", "/no/such"), &local).await;
    assert!(fault(&outcome).starts_with("cannot run in \"/no/such\": No such file or directory"));
    let outcome = run(command(&["pwd"]).with("cwd", "/etc/passwd"), &local).await;
    assert!(fault(&outcome).starts_with("cannot run in \"/etc/passwd\": Not a directory"));
}

#[tokio::test]
async fn what_sets_no_variable_is_refused_before_anything_runs() {
    for bad in ["NAME", "=value", ""] {
        let local = MemoryLocal::new();
        let outcome = run(command(&["true"]).with("env", bad), &local).await;
        assert!(fault(&outcome).contains("sets no variable"), "{bad}");
    }
}

#[tokio::test]
async fn the_environment_is_that_of_a_fresh_login() {
    let (outcome, local) = argv(&["env"]).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    let text = stdout(&local);
    let mut names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["HOME", "LEGATUS_CALL", "LOGNAME", "PATH", "SHELL", "USER"]
    );
}

#[tokio::test]
async fn variables_and_the_locale_are_passed_on() {
    let local = MemoryLocal::new()
        .with_environment("LC_TIME", "C.UTF-8")
        .with_environment("LANG", "C")
        .with_environment("SECRET", "no");
    let arguments = command(&["sh", "-c", "echo $A,$B,$LC_TIME,$LANG,$SECRET,$HOME"])
        .with("env", "A=1=2")
        .with("env", "B=")
        .with("env", "LANG=C.utf8")
        .with("env", "HOME=/elsewhere");
    assert_eq!(run(arguments, &local).await, Outcome::SUCCESS);
    assert_eq!(stdout(&local), "1=2,,C.UTF-8,C.utf8,,/elsewhere\n");
}

#[tokio::test]
async fn a_command_runs_in_the_home_directory() {
    let home = super::super::account::Account::current().unwrap().home;
    let home = std::fs::canonicalize(home).unwrap();
    let (_, local) = argv(&["pwd", "-P"]).await;
    assert_eq!(stdout(&local), format!("{}\n", home.display()));
}

#[tokio::test]
async fn a_command_runs_in_the_directory_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let odd = directory.path().join("a b\nc");
    std::fs::create_dir(&odd).unwrap();
    let local = MemoryLocal::new();
    let outcome = run(command(&["pwd"]).with("cwd", odd.as_os_str()), &local).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert_eq!(stdout(&local), format!("{}\n", odd.display()));
}
