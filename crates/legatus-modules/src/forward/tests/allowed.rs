//! What settings allow and what not.

use legatus_core::{Settings, SocketName};

use crate::forward::allowed::Allowed;
use crate::forward::request::What;

fn tcp(host: &str, port: u16) -> SocketName {
    SocketName::Tcp {
        host: host.to_owned(),
        port,
    }
}

fn connects(allowed: &Allowed, host: &str, port: u16) -> bool {
    allowed.check(&What::Connect(tcp(host, port))).is_ok()
}

fn listens(allowed: &Allowed, host: &str, port: u16) -> bool {
    allowed.check(&What::Listen(tcp(host, port))).is_ok()
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for bad in [
        "", "x", ":80", "x:", "x:y", "x:80-", "::1:80", "x:99999", "[::1]",
    ] {
        let settings = Settings::new().with("connect", [bad]);
        assert!(Allowed::from_settings(&settings).is_err(), "{bad}");
    }
    let unknown = Settings::new().with("conect", ["*:*"]);
    assert!(Allowed::from_settings(&unknown).is_err());
}

#[test]
fn without_settings_listeners_are_loopback_and_have_no_reserved_ports() {
    let allowed = Allowed::default();
    assert!(connects(&allowed, "anything.example", 22));
    assert!(listens(&allowed, "localhost", 8080) && listens(&allowed, "::1", 0));
    assert!(listens(&allowed, "127.0.0.2", 65535));
    for (host, port) in [
        ("*", 8080),
        ("0.0.0.0", 8080),
        ("10.0.0.1", 8080),
        ("localhost", 80),
    ] {
        assert!(!listens(&allowed, host, port), "{host}:{port}");
    }
}

#[test]
fn only_what_is_listed_is_allowed() {
    let settings = Settings::new()
        .with(
            "connect",
            ["*.Example.com:80,8000-8999", "10.*:22", "[fd00::*]:*"],
        )
        .with("listen", [""; 0])
        .with("connect-unix", ["/run/*.sock"]);
    let allowed = Allowed::from_settings(&settings).unwrap();
    for (host, port) in [
        ("www.example.com", 80),
        ("WWW.EXAMPLE.COM", 8500),
        ("10.1.2.3", 22),
        ("::ffff:10.1.2.3", 22),
        ("fd00::7", 1),
    ] {
        assert!(connects(&allowed, host, port), "{host}:{port}");
    }
    for (host, port) in [
        ("example.com", 80),
        ("www.example.com", 443),
        ("www.example.com.evil", 80),
        // A name is not an address, whatever it looks like.
        ("10.evil.example", 22),
        ("10.1.2.3", 23),
        ("localhost", 22),
        ("fd01::7", 1),
    ] {
        assert!(!connects(&allowed, host, port), "{host}:{port}");
    }
    assert!(!listens(&allowed, "localhost", 8080));
    let unix = |path: &str| {
        allowed
            .check(&What::Connect(SocketName::Unix(path.into())))
            .is_ok()
    };
    assert!(unix("/run/docker.sock"));
    for path in [
        "/tmp/x.sock",
        "/run/../etc/x.sock",
        "run/x.sock",
        "/run//x.sock",
        "/run/x",
    ] {
        assert!(!unix(path), "{path}");
    }
}
