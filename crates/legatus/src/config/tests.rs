//! How the configuration is read and found.

use std::fs;

use legatus_core::Host;
use tempfile::TempDir;

use super::*;
use crate::environment::{CA, CERT, CONFIG, HOME, KEY, LOG, XDG_CONFIG_HOME};

/// A home directory, with a configuration if one is given.
fn home(config: Option<&str>) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join(".config/legatus")).unwrap();
    if let Some(text) = config {
        fs::write(home.path().join(".config/legatus/config.toml"), text).unwrap();
    }
    home
}

fn touch(home: &TempDir, paths: &[&str]) {
    for path in paths {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
}

const CUSTOM: [&str; 3] = [
    ".config/legatus/client.crt",
    ".config/legatus/client.key",
    ".config/legatus/ca.crt",
];

fn load(home: &TempDir, globals: &Globals) -> Result<Configuration, ConfigError> {
    let environment = Environment::fixed([(HOME, home.path().to_str().unwrap())]);
    Configuration::load(globals, &environment)
}

fn resolve(home: &TempDir, host: &str) -> Result<RemoteHost, ConfigError> {
    let configuration = load(home, &Globals::default())?;
    match configuration
        .resolve(&host.parse::<Host>().unwrap())?
        .endpoint
    {
        Endpoint::Remote(remote) => Ok(remote),
        Endpoint::Embedded => panic!("embedded"),
    }
}

fn message(error: &ConfigError) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn errors_name_the_line_and_the_nearest_key() {
    for (text, expected) in [
        (
            "[identity]\ncrt = \"x\"",
            "line 2: unknown key `crt`, did you mean `cert`?",
        ),
        (
            "\n\n[idnetity]\n",
            "line 3: unknown key `idnetity`, did you mean `identity`?",
        ),
        (
            "[hosts.a]\naddress = \"b\"\nserver_name = \"c\"",
            "line 3: unknown key `server_name`, did you mean `server-name`?",
        ),
        (
            "[hosts.a]\nuser = \"b\"",
            "line 2: unknown key `user`; known are address, server-name",
        ),
        (
            "[defaults]\nconnect-timeout = \"soon\"",
            "line 2: `soon` is not a length of time",
        ),
        ("[defaults]\nconnect-timeout = -1", "line 2: "),
        ("[identity]\ncert = 3", "line 2: invalid type: integer `3`"),
        ("a = [", "line 1: "),
    ] {
        let error = load(&home(Some(text)), &Globals::default()).unwrap_err();
        let message = message(&error);
        assert!(message.contains("config.toml, line "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_configuration_that_is_named_must_exist_and_the_default_one_need_not() {
    let empty = home(None);
    load(&empty, &Globals::default()).unwrap();
    let globals = Globals {
        config: Some(empty.path().join("none.toml")),
        ..Globals::default()
    };
    let error = load(&empty, &globals).unwrap_err();
    assert!(
        message(&error).contains("none.toml: No such file"),
        "{error}"
    );
    let environment = Environment::fixed([(CONFIG, "/nonexistent/legatus.toml")]);
    assert!(Configuration::load(&Globals::default(), &environment).is_err());
}

#[test]
fn no_identity_is_an_error_with_a_hint() {
    let error = resolve(&home(None), "web1").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no client certificate is configured"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("legatus pki quickstart"));
    let environment = Environment::fixed([]);
    let nobody = Configuration::load(&Globals::default(), &environment).unwrap();
    let error = nobody.resolve(&"web1".parse().unwrap()).unwrap_err();
    assert!(matches!(error, ConfigError::NoHome(_)), "{error}");
}

#[test]
fn a_certificate_without_its_key_is_refused_rather_than_mixed_with_another() {
    let home = home(Some("[hosts.web1]\ncert = \"other.crt\""));
    touch(&home, &CUSTOM);
    touch(&home, &[".config/legatus/other.crt"]);
    let error = resolve(&home, "web1").unwrap_err();
    assert!(
        matches!(
            error,
            ConfigError::HalfAPair {
                missing: "private key",
                ..
            }
        ),
        "{error}"
    );
    resolve(&home, "web2").unwrap();
}

#[test]
fn a_file_that_is_named_but_missing_is_an_error_that_says_by_whom() {
    let home = home(Some("[identity]\ncert = \"a.crt\"\nkey = \"a.key\""));
    let error = resolve(&home, "web1").unwrap_err();
    let message = message(&error);
    assert!(
        message.contains("a.crt, named by the configuration: No such file"),
        "{message}"
    );
}

#[test]
fn addresses_that_make_no_sense_are_refused() {
    let home = home(Some("[hosts.web1]\naddress = \"a b\""));
    touch(&home, &CUSTOM);
    let error = resolve(&home, "web1").unwrap_err();
    assert!(
        error.to_string().contains("host `web1`: `a b` is no host"),
        "{error}"
    );
}

#[test]
fn local_is_embedded_and_needs_nothing() {
    let configuration = load(&home(None), &Globals::default()).unwrap();
    let local = configuration.resolve(&"local".parse().unwrap()).unwrap();
    assert_eq!(local.endpoint, Endpoint::Embedded);
    let error = configuration
        .resolve(&"local:1".parse().unwrap())
        .unwrap_err();
    assert!(matches!(error, ConfigError::LocalPort));
}

#[test]
fn hosts_have_addresses_ports_and_names_to_verify() {
    let home = home(Some(
        "[hosts.web1]\naddress = \"10.0.0.1:7\"\nserver-name = \"web1.example\"\n\
         [hosts.six]\naddress = \"[::1]:8\"\n[hosts.bare]\n",
    ));
    touch(&home, &CUSTOM);
    for (typed, address, port, server_name) in [
        ("web1", "10.0.0.1", 7, "web1.example"),
        ("web1:9", "10.0.0.1", 9, "web1.example"),
        ("six", "::1", 8, "::1"),
        ("bare", "bare", 49022, "bare"),
        ("unknown.example:1", "unknown.example", 1, "unknown.example"),
    ] {
        let host = resolve(&home, typed).unwrap();
        assert_eq!(
            (host.address.as_str(), host.port),
            (address, port),
            "{typed}"
        );
        assert_eq!(host.server_name, server_name, "{typed}");
    }
}

#[test]
fn paths_in_the_file_count_from_its_folder_and_from_home() {
    let home = home(Some(
        "[identity]\ncert = \"a/my.crt\"\nkey = \"~/my.key\"\nsystem-roots = true\n\
         [hosts.web1]\nca = \"../web1.crt\"",
    ));
    touch(
        &home,
        &[".config/legatus/a/my.crt", "my.key", ".config/web1.crt"],
    );
    let identity = resolve(&home, "web2").unwrap().identity;
    assert_eq!(identity.cert, home.path().join(".config/legatus/a/my.crt"));
    assert_eq!(identity.key, home.path().join("my.key"));
    assert_eq!((identity.ca, identity.system_roots), (None, true));
    let of_web1 = resolve(&home, "web1").unwrap().identity;
    assert_eq!(
        of_web1.ca.unwrap(),
        home.path().join(".config/legatus/../web1.crt")
    );
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let home = home(Some(
        "[identity]\ncert = \"f.crt\"\nkey = \"f.key\"\nca = \"f.ca\"\n\
         [defaults]\nconnect-timeout = \"3s\"\nlog-level = \"error\"",
    ));
    touch(&home, &["e.crt", "e.key", "e.ca", "g.crt", "g.key"]);
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let environment = Environment::fixed([
        (XDG_CONFIG_HOME, &at(".config")),
        (CERT, &at("e.crt")),
        (KEY, &at("e.key")),
        (CA, &at("e.ca")),
        (LOG, "info"),
    ]);
    let configured = |globals| {
        let configuration = Configuration::load(&globals, &environment).unwrap();
        let host = configuration.resolve(&"web1".parse().unwrap()).unwrap();
        let Endpoint::Remote(remote) = host.endpoint else {
            panic!()
        };
        (
            remote.identity,
            host.connect_timeout,
            configuration.log_level(),
        )
    };
    let (identity, timeout, level) = configured(Globals::default());
    assert_eq!(identity.cert, Path::new(&at("e.crt")));
    assert_eq!(timeout, Duration::from_secs(3));
    assert_eq!(level.as_deref(), Some("info"));
    let (identity, timeout, level) = configured(Globals {
        cert: vec![at("g.crt").into()],
        key: vec![at("g.key").into()],
        connect_timeout: Some(Duration::from_secs(1)),
        log_level: Some("trace".into()),
        ..Globals::default()
    });
    assert_eq!(identity.cert, Path::new(&at("g.crt")));
    assert_eq!(identity.ca.as_deref(), Some(Path::new(&at("e.ca"))));
    assert_eq!(timeout, Duration::from_secs(1));
    assert_eq!(level.as_deref(), Some("trace"));
}
