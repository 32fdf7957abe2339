//! The wire's bytes, as every client of any language and age must see them.

use legatus_core::wire::{
    Attach, CallReply, CallRequest, ControlRequest, Keeping, Open, Taken, TerminalSize, call_reply,
    call_request, control_request,
};
use legatus_core::{Fault, Outcome};
use proptest::prelude::*;
use prost::Message as _;

fn open() -> CallRequest {
    CallRequest {
        part: Some(call_request::Part::Open(Open {
            call_id: "c1".to_owned(),
            module: "echo".to_owned(),
            version: "1.2".to_owned(),
            arguments: vec!["a b".into(), vec![0, 255].into()],
            request: "r".into(),
            timeout_milliseconds: 300,
            keeping: None,
            attach: None,
        })),
    }
}

fn attach() -> CallRequest {
    CallRequest {
        part: Some(call_request::Part::Open(Open {
            call_id: "c1".to_owned(),
            keeping: Some(Keeping {
                linger_milliseconds: 64000,
                keep_milliseconds: 1000,
                name: "job".to_owned(),
                replay_bytes: 7,
                terminal: true,
                detached: true,
            }),
            attach: Some(Attach {
                session: "s".to_owned(),
                resume: true,
                received: 5,
                read_only: true,
                own_size: false,
                or_open: true,
            }),
            ..Open::default()
        })),
    }
}

fn refusal() -> CallReply {
    let fault = Fault::new("no").with_hint("ask");
    CallReply {
        part: Some(call_reply::Part::Outcome(Outcome::Denied(fault).into())),
    }
}

fn resize() -> ControlRequest {
    ControlRequest {
        call_id: "c1".to_owned(),
        control: Some(control_request::Control::Resize(TerminalSize {
            columns: 80,
            rows: 24,
        })),
    }
}

#[test]
fn messages_keep_their_golden_bytes() {
    let golden: [(Vec<u8>, &[u8]); 7] = [
        (
            open().encode_to_vec(),
            b"\x0a\x1e\x0a\x02c1\x12\x04echo\x1a\x031.2\x22\x03a b\x22\x02\x00\xff\x2a\x01r\x30\xac\x02",
        ),
        (refusal().encode_to_vec(), b"\x12\x0b\x2a\x09\x0a\x02no\x12\x03ask"),
        (resize().encode_to_vec(), b"\x0a\x02c1\x22\x04\x08\x50\x10\x18"),
        (
            CallReply {
                part: Some(call_reply::Part::Message("data".into())),
            }
            .encode_to_vec(),
            b"\x0a\x04data",
        ),
        (
            attach().encode_to_vec(),
            b"\x0a\x25\x0a\x02c1\x3a\x12\x08\x80\xf4\x03\x10\xe8\x07\x1a\x03job\x20\x07\x28\x01\x30\x01\x42\x0b\x0a\x01s\x10\x01\x18\x05\x20\x01\x30\x01",
        ),
        (
            CallRequest {
                part: Some(call_request::Part::Received(300)),
            }
            .encode_to_vec(),
            b"\x18\xac\x02",
        ),
        (
            CallReply {
                part: Some(call_reply::Part::Taken(Taken {
                    messages: 1,
                    next: 2,
                })),
            }
            .encode_to_vec(),
            b"\x1a\x04\x08\x01\x10\x02",
        ),
    ];
    for (encoded, bytes) in golden {
        assert_eq!(encoded, bytes);
    }
}

#[test]
fn every_truncation_is_an_error_or_another_message_but_no_panic() {
    let bytes = open().encode_to_vec();
    for end in 1..bytes.len() {
        assert!(CallRequest::decode(&bytes[..end]).is_err(), "{end}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
        CallRequest::decode(bytes.as_slice()).ok();
        CallReply::decode(bytes.as_slice()).ok();
        ControlRequest::decode(bytes.as_slice()).ok();
    }
}
