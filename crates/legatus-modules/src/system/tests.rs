//! Both halves of `system` against a server that only remembers what it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use legatus_core::testing::{self, MemoryLocal};
use legatus_core::{
    Arguments, BoxFuture, Caller, Channel, Control, Conversation, Effects, Fault, Module, Outcome,
    PendingOutcome, Registry, Request, ServerControl, ServerFacts,
};
use prost::Message;

use super::messages::{self, Action};
use super::module;

#[derive(Default)]
struct FakeServer {
    drained: AtomicUsize,
    restarted: AtomicUsize,
    broken: bool,
}

impl ServerControl for FakeServer {
    fn facts(&self) -> ServerFacts {
        ServerFacts {
            version: "9.8.7\x1b[31m".into(),
            modules: vec![
                ("echo".into(), "1.2".into()),
                ("shell".into(), "3.4".into()),
            ],
            connections: 11,
            calls: 22,
            started: Some(SystemTime::now() - Duration::from_secs(90_061)),
        }
    }

    fn drain(&self) {
        self.drained.fetch_add(1, Ordering::Relaxed);
    }

    fn restart(&self) -> BoxFuture<'_, Result<u32, Fault>> {
        self.restarted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match self.broken {
                true => Err(Fault::new("the new process does not come up")),
                false => Ok(4711),
            }
        })
    }
}

/// Opens calls that may reach the server, or not.
struct FakeCaller(Option<Arc<FakeServer>>);

impl Caller for FakeCaller {
    fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
        Box::pin(async move {
            let module = module();
            let (channel, theirs) = Channel::pair(7);
            let (controls, receiver) = Control::queue();
            let (decide, outcome) = PendingOutcome::new();
            let mut call = testing::call(&module, request, receiver)?;
            if let Some(server) = &self.0 {
                call.grant_server(Arc::clone(server) as Arc<dyn ServerControl>);
            }
            tokio::spawn(async move {
                let commander = module.commander().unwrap();
                decide
                    .send(commander.execute(call, theirs).await.into())
                    .ok();
            });
            Ok(Conversation {
                channel,
                controls,
                outcome,
            })
        })
    }
}

async fn run(action: &str, server: &Arc<FakeServer>) -> (Result<Outcome, Fault>, MemoryLocal) {
    let local = MemoryLocal::new();
    let caller = FakeCaller(Some(Arc::clone(server)));
    let arguments = Arguments::new().with("action", action);
    let module = module();
    let outcome = module
        .sender()
        .unwrap()
        .send(arguments, &caller, &local)
        .await;
    (outcome, local)
}

fn text(local: &MemoryLocal) -> String {
    String::from_utf8(local.stdout()).unwrap()
}

#[tokio::test]
async fn an_unknown_action_is_refused_on_both_sides() {
    let server = Arc::default();
    for word in ["", "halt", "INFO"] {
        let (outcome, _) = run(word, &server).await;
        assert!(outcome.unwrap_err().hint().unwrap().contains("`info`"));
    }
    let module = module();
    let commander = module.commander().unwrap();
    for action in [0, 4, -1] {
        let body = messages::Request { action }.encode_to_vec();
        assert!(commander.inspect(&Request::from_body(body)).is_err());
    }
    let garbage = Request::from_body(&b"\xff\xff"[..]);
    assert!(commander.inspect(&garbage).is_err());
}

#[tokio::test]
async fn outside_of_a_server_every_action_fails() {
    for action in ["info", "restart", "shutdown"] {
        let local = MemoryLocal::new();
        let arguments = Arguments::new().with("action", action);
        let module = module();
        let sender = module.sender().unwrap();
        let outcome = sender.send(arguments, &FakeCaller(None), &local).await;
        assert!(matches!(outcome, Ok(Outcome::Failed(_))), "{outcome:?}");
        assert!(local.stdout().is_empty() && local.records().is_empty());
    }
}

#[tokio::test]
async fn a_restart_that_fails_tells_why() {
    let server = Arc::new(FakeServer {
        broken: true,
        ..FakeServer::default()
    });
    let (outcome, local) = run("restart", &server).await;
    let fault = Fault::new("the new process does not come up");
    assert_eq!(outcome, Ok(Outcome::Failed(fault)));
    assert!(local.stdout().is_empty());
}

#[test]
fn asking_needs_the_right_to_read_and_ending_the_right_to_execute() {
    let module = module();
    for (action, effects) in [
        (Action::Info, Effects::READ),
        (Action::Restart, Effects::EXEC),
        (Action::Shutdown, Effects::EXEC),
    ] {
        let body = messages::Request {
            action: action.into(),
        };
        let request = Request::from_body(body.encode_to_vec());
        let inspection = module.commander().unwrap().inspect(&request).unwrap();
        assert_eq!(inspection.effects, effects);
        assert!(module.spec().effects.covers(effects));
    }
}

#[tokio::test]
async fn info_lists_the_machine_and_the_server_for_people_and_for_programs() {
    let server = Arc::default();
    let (outcome, local) = run("info", &server).await;
    assert_eq!(outcome, Ok(Outcome::SUCCESS));
    let text = text(&local);
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    for line in [
        format!("name          {name}\n"),
        "server        legatus 9.8.7\u{fffd}[31m\n".to_owned(),
        "server up     1 d 1 h\n".to_owned(),
        "connections   11\n".to_owned(),
        "calls         22\n".to_owned(),
        "modules       echo 1.2, shell 3.4\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}{text}");
    }
    let [record] = &local.records()[..] else {
        panic!("one record is expected");
    };
    let record: serde_json::Value = serde_json::from_str(record).unwrap();
    assert_eq!(record["name"], name);
    assert_eq!(record["load"].as_array().unwrap().len(), 3);
    assert_eq!(record["server"]["modules"][1]["name"], "shell");
}

#[tokio::test]
async fn shutdown_drains_the_server_once() {
    let server = Arc::default();
    let (outcome, local) = run("shutdown", &server).await;
    assert_eq!(outcome, Ok(Outcome::SUCCESS));
    assert_eq!(text(&local), "draining\n");
    assert_eq!(local.records(), [r#"{"draining":true}"#]);
    assert_eq!(server.drained.load(Ordering::Relaxed), 1);
    assert_eq!(server.restarted.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn restart_tells_the_new_process() {
    let server = Arc::default();
    let (outcome, local) = run("restart", &server).await;
    assert_eq!(outcome, Ok(Outcome::SUCCESS));
    assert_eq!(text(&local), "process 4711 has taken over\n");
    assert_eq!(server.restarted.load(Ordering::Relaxed), 1);
}

#[test]
fn every_alias_stands_for_its_action() {
    let mut registry = Registry::new();
    registry.add(module()).unwrap();
    for name in ["info", "restart", "shutdown"] {
        let (module, alias) = registry.resolve_alias(name).unwrap();
        assert_eq!(module.spec().name, "system");
        assert_eq!(alias.unwrap().arguments, [name]);
    }
}
