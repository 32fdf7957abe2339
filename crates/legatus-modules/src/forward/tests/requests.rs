//! Requests that make no sense, and how those that do are told.

use legatus_core::{Commander, Effects, Module, Placement, Request, SocketName};
use prost::Message;

use crate::forward::messages::{self, Socket, Tcp, request, socket};
use crate::forward::module;
use crate::forward::request::What;

fn tcp(host: &str, port: u32) -> Socket {
    let host = host.to_owned();
    Socket {
        kind: Some(socket::Kind::Tcp(Tcp { host, port })),
    }
}

fn encoded(what: Option<request::What>) -> Request {
    Request::from_body(messages::Request { what }.encode_to_vec())
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let module = module();
    let commander = module.commander().unwrap();
    let unix = |path: &'static [u8]| Socket {
        kind: Some(socket::Kind::Unix(path.into())),
    };
    let bad = [
        Request::from_body(&b"\xff"[..]),
        encoded(None),
        encoded(Some(request::What::Connect(Socket { kind: None }))),
        encoded(Some(request::What::Connect(tcp("", 1)))),
        encoded(Some(request::What::Connect(tcp("*", 1)))),
        encoded(Some(request::What::Connect(tcp("a b", 1)))),
        encoded(Some(request::What::Connect(tcp("a\n", 1)))),
        encoded(Some(request::What::Connect(tcp(&"x".repeat(256), 1)))),
        encoded(Some(request::What::Connect(tcp("a", 0)))),
        encoded(Some(request::What::Listen(tcp("a", 65_536)))),
        encoded(Some(request::What::Connect(unix(b"")))),
        encoded(Some(request::What::Connect(unix(b"/a\0b")))),
    ];
    for request in bad {
        assert!(commander.inspect(&request).is_err(), "{request:?}");
    }
}

#[test]
fn only_unix_sockets_need_the_users_rights() {
    let module = module();
    let commander: &dyn Commander = module.commander().unwrap();
    let name = || SocketName::Tcp {
        host: "db".into(),
        port: 5432,
    };
    let ticket = |unix| messages::Ticket {
        ticket: "x".into(),
        unix,
    };
    for (what, placement) in [
        (What::Connect(name()), Some(Placement::Server)),
        (What::Listen(name()), Some(Placement::Server)),
        (What::Hold, Some(Placement::Server)),
        (What::Take(ticket(false)), Some(Placement::Server)),
        (What::Take(ticket(true)), None),
        (What::Connect(SocketName::Unix("/run/x".into())), None),
        (What::Listen(SocketName::Unix("/run/x".into())), None),
    ] {
        assert_eq!(
            commander.placement(&what.clone().encode()),
            placement,
            "{what:?}"
        );
    }
}

#[test]
fn the_audit_is_told_where_to() {
    let module = module();
    let name = SocketName::Tcp {
        host: "::1".into(),
        port: 80,
    };
    let told = module
        .commander()
        .unwrap()
        .inspect(&What::Connect(name).encode())
        .unwrap();
    assert_eq!(told.effects, Effects::EXEC);
    assert_eq!(told.summary, "connect \"[::1]:80\"");
}
