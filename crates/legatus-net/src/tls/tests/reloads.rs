//! Certificates that change while connections are open.

use std::{fs, path::Path};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;

/// A server whose files are in a folder.
struct Files {
    folder: TempDir,
    pki: Pki,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: TempDir::new().expect("a folder"),
            pki: Pki::new(),
        };
        files.write("ca.crt", files.pki.authority.certificate_pem());
        files.write_pair(&files.pki.server);
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).expect("written");
    }

    fn write_pair(&self, pair: &Issued) {
        self.write("server.crt", pair.certificate_pem());
        self.write("server.key", pair.key_pem());
    }

    fn server(&self) -> Arc<ServerTls> {
        let pair = PairSource::files(self.path("server.crt"), self.path("server.key"));
        let authorities = PemSource::File(self.path("ca.crt"));
        Arc::new(ServerTls::new(vec![pair], authorities).expect("a server"))
    }

    fn renewed(&self) -> Issued {
        self.pki
            .authority
            .issue_server(&["localhost"])
            .expect("a server")
    }

    async fn shown_by(&self, server: &ServerTls) -> CertificateDer<'static> {
        let met = meet(server.config(), self.pki.client_config(), "localhost").await;
        met.client.expect("a server")
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_open_connections_stay() {
    let files = Files::new();
    let server = files.server();
    let (accepted, connected) = connection().await;
    let name = server_name("localhost").expect("a name");
    let (accepted, connected) = tokio::join!(
        accept(server.config(), accepted),
        connect(files.pki.client_config(), name, connected)
    );
    let ((mut accepted, _), (mut connected, _)) = (accepted.expect("ok"), connected.expect("ok"));

    let renewed = files.renewed();
    files.write_pair(&renewed);
    server.reload().expect("reloaded");

    assert_eq!(
        files.shown_by(&server).await,
        leaf_of(renewed.certificate_pem())
    );
    connected.write_u8(b'?').await.expect("still open");
    connected.flush().await.expect("still open");
    assert_eq!(accepted.read_u8().await.expect("still open"), b'?');
}

#[tokio::test]
async fn a_broken_file_is_named_and_the_old_one_stays() {
    let files = Files::new();
    let server = files.server();
    let before = server.config();
    let other_key = files.renewed();
    for (name, contents, reason) in [
        ("server.crt", "garbage", "there is no PEM certificate in"),
        ("server.key", other_key.key_pem(), "does not belong to"),
        ("ca.crt", "", "there is no PEM certificate in"),
    ] {
        let good = fs::read_to_string(files.path(name)).expect("read");
        files.write(name, contents);
        let error = server.reload().expect_err("broken").to_string();
        assert!(error.contains(reason) && error.contains(name), "{error}");
        files.write(name, &good);
    }
    fs::remove_file(files.path("server.key")).expect("removed");
    let error = server.reload().expect_err("missing");
    assert!(error.to_string().contains("server.key"), "{error}");
    assert_eq!(source_of(&error), "No such file or directory (os error 2)");

    assert!(Arc::ptr_eq(&before, &server.config()));
    assert_eq!(
        files.shown_by(&server).await,
        leaf_of(files.pki.server.certificate_pem())
    );
}

#[tokio::test]
async fn a_pair_of_the_other_role_is_named_and_the_old_one_stays() {
    let files = Files::new();
    let server = files.server();
    files.write_pair(&files.pki.client);
    let error = server.reload().expect_err("a client's").to_string();
    assert!(
        error.contains("server.crt") && error.contains("a client's certificate for `alice`"),
        "{error}"
    );
    assert_eq!(
        files.shown_by(&server).await,
        leaf_of(files.pki.server.certificate_pem())
    );
}

#[tokio::test]
async fn a_new_authority_of_clients_counts_for_new_connections() {
    let files = Files::new();
    let server = files.server();
    let other = Pki::new();
    files.write("ca.crt", other.authority.certificate_pem());
    server.reload().expect("reloaded");
    let met = meet(server.config(), files.pki.client_config(), "localhost").await;
    assert_eq!(met.server_problem(), Some(TlsProblem::UnknownAuthority));
    let client = files.pki.client_with(Some(&other.client));
    let met = meet(server.config(), client, "localhost").await;
    met.server.expect("a peer");
}

#[tokio::test]
async fn a_client_reloads_too() {
    let files = Files::new();
    files.write("alice.crt", files.pki.client.certificate_pem());
    files.write("alice.key", files.pki.client.key_pem());
    let pair = PairSource::files(files.path("alice.crt"), files.path("alice.key"));
    let authorities = RootSource::Bundle(PemSource::File(files.path("ca.crt")));
    let client = ClientTls::new(Some(pair), authorities).expect("a client");

    let bob = files.pki.authority.issue_client("bob").expect("a client");
    files.write("alice.crt", bob.certificate_pem());
    client.reload().expect_err("the key is still the old one");
    files.write("alice.key", bob.key_pem());
    client.reload().expect("reloaded");
    let met = meet(files.pki.server_config(), client.config(), "localhost").await;
    assert_eq!(met.server.expect("a peer").identity(), "bob");
}

#[tokio::test]
async fn the_watch_notices_changed_files_until_it_is_cancelled() {
    let files = Files::new();
    let server = files.server();
    let before = server.config();
    let cancellation = CancellationToken::new();
    let watch = tokio::spawn(Arc::clone(&server).watch(cancellation.clone()));
    let renewed = files.renewed();
    files.write_pair(&renewed);
    // Until it happens; the test runner ends what never does.
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    while Arc::ptr_eq(&before, &server.config()) {
        ticks.tick().await;
    }
    assert_eq!(
        files.shown_by(&server).await,
        leaf_of(renewed.certificate_pem())
    );
    cancellation.cancel();
    watch.await.expect("the watch ends");
}

#[tokio::test]
async fn the_watch_of_what_is_in_memory_ends_at_once() {
    let pki = Pki::new();
    let server = ServerTls::new(vec![(&pki.server).into()], pki.bundle()).expect("a server");
    Arc::new(server).watch(CancellationToken::new()).await;
}
