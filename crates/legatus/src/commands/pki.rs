//! `legatus pki`: makes, signs and shows certificates.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand, ValueEnum, builder::RangedI64ValueParser, value_parser};
use legatus_net::pki::{self, AuthorityOptions, Holder, IssueOptions, Subject, Validity, folder};

/// Makes, signs and shows certificates.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a certificate authority: ca.crt and ca.key
    #[command(
        after_help = "Give ca.crt to every server and client (--ca). Whoever has ca.key can make \
        certificates for anyone: keep it where nobody else comes."
    )]
    Init(Init),
    /// Make a server's or a client's certificate and key: NAME.crt and NAME.key
    #[command(
        after_help = "A server is verified by the names and addresses that clients connect to; give \
        all of them. A client is known to servers by its NAME, which may be a URI such as \
        spiffe://example.com/alice."
    )]
    Issue(Issue),
    /// Make an authority, a server's and a client's certificate at once
    Quickstart(Quickstart),
    /// Show what a PEM file holds: names, role, validity, fingerprint
    Show(Show),
}

#[derive(Debug, Args)]
pub struct Init {
    #[command(flatten)]
    target: TargetArguments,
    /// Days of validity
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = days())]
    days: u32,
    /// Subject, such as C=IT,O=Legio X,CN=Legio CA
    #[arg(
        long,
        value_name = "FIELDS",
        default_value = "",
        hide_default_value = true
    )]
    subject: Subject,
    /// Kind of key
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    key_type: KeyType,
}

#[derive(Debug, Args)]
pub struct Issue {
    #[command(flatten)]
    target: TargetArguments,
    /// Folder for NAME.crt and NAME.key, made if need be [default: that of --dir]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    holder: HolderArguments,
    /// Another name or address of the server (repeatable)
    #[arg(long = "san", value_name = "NAME-OR-IP", conflicts_with = "client")]
    alternatives: Vec<String>,
    /// Sign this certificate request instead of making a key; of it only the public key is taken
    #[arg(long, value_name = "FILE", conflicts_with = "key_type")]
    csr: Option<PathBuf>,
    #[command(flatten)]
    leaf: LeafArguments,
    /// Further fields of the subject, such as C=IT,O=Legio X,OU=Castra
    #[arg(
        long,
        value_name = "FIELDS",
        default_value = "",
        hide_default_value = true
    )]
    subject: Subject,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HolderArguments {
    /// Issue for a server of this DNS name or IP address
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Issue for a client of this identity
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
}

#[derive(Debug, Args)]
pub struct Quickstart {
    #[command(flatten)]
    target: TargetArguments,
    /// The server's DNS name or IP address
    #[arg(long, value_name = "NAME")]
    server: String,
    /// Another name or address of the server (repeatable)
    #[arg(long = "san", value_name = "NAME-OR-IP")]
    alternatives: Vec<String>,
    /// The client's identity
    #[arg(long, value_name = "NAME")]
    client: String,
    #[command(flatten)]
    leaf: LeafArguments,
}

#[derive(Debug, Args)]
pub struct Show {
    /// A PEM file of certificates, a certificate request or a key
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// Folder of the authority and its certificates
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LeafArguments {
    /// Days of validity of server and client certificates, never beyond the authority's: there is
    /// no revocation, so this bounds what a lost key is worth
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = days())]
    days: u32,
    /// Kind of key
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    key_type: KeyType,
}

/// The kinds of keys, as on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum KeyType {
    /// ECDSA on P-256
    #[default]
    Ecdsa,
    /// Ed25519
    Ed25519,
    /// RSA of 3072 bits
    Rsa,
}

impl From<KeyType> for pki::KeyType {
    fn from(key_type: KeyType) -> Self {
        match key_type {
            KeyType::Ecdsa => Self::Ecdsa,
            KeyType::Ed25519 => Self::Ed25519,
            KeyType::Rsa => Self::Rsa,
        }
    }
}

/// A century is longer than anyone can mean.
const MAX_DAYS: i64 = 36500;

fn days() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=MAX_DAYS)
}

impl PkiCommand {
    /// Does it, and prints which files were written or what a file holds. Errors keep the
    /// [`pki::PkiError`] with its hint.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Init(init) => init.run(),
            Self::Issue(issue) => issue.run(),
            Self::Quickstart(quickstart) => quickstart.run(),
            Self::Show(show) => show.run(),
        }
    }
}

impl Init {
    fn run(self) -> Result<()> {
        let options = AuthorityOptions {
            subject: self.subject,
            validity: Some(Validity::days(self.days)),
            key_type: self.key_type.into(),
        };
        let written = folder::init(&self.target.dir, &options, self.target.force);
        print_written(&written?)
    }
}

impl Issue {
    fn run(self) -> Result<()> {
        let holder = match (self.holder.server, self.holder.client) {
            (Some(name), _) => Holder::Server {
                name,
                alternatives: self.alternatives,
            },
            (None, Some(name)) => Holder::Client { name },
            (None, None) => return Err(anyhow!("give --server NAME or --client NAME")),
        };
        let options = self.leaf.options(self.subject);
        let TargetArguments { dir, force } = self.target;
        let out = self.out.as_ref().unwrap_or(&dir);
        let written = match self.csr {
            Some(request) => folder::sign_request(&dir, out, &request, &holder, &options, force),
            None => folder::issue(&dir, out, &holder, &options, force),
        };
        print_written(&written?)
    }
}

impl Quickstart {
    fn run(self) -> Result<()> {
        let server = Holder::Server {
            name: self.server,
            alternatives: self.alternatives,
        };
        let client = Holder::Client { name: self.client };
        let options = self.leaf.options(Subject::default());
        let TargetArguments { dir, force } = self.target;
        let written = folder::quickstart(&dir, &server, &client, &options, force);
        print_written(&written?)
    }
}

impl LeafArguments {
    fn options(&self, subject: Subject) -> IssueOptions {
        IssueOptions {
            subject,
            validity: Some(Validity::days(self.days)),
            key_type: self.key_type.into(),
        }
    }
}

impl Show {
    fn run(self) -> Result<()> {
        let contents = folder::read(&self.file)?;
        let descriptions = pki::describe(&contents)
            .with_context(|| format!("cannot show `{}`", self.file.display()))?;
        let mut output = io::stdout().lock();
        for (index, description) in descriptions.iter().enumerate() {
            if self.json {
                writeln!(output, "{}", serde_json::to_string(description)?)?;
            } else {
                let separator = if index == 0 { "" } else { "\n" };
                write!(output, "{separator}{description}")?;
            }
        }
        Ok(())
    }
}

fn print_written(paths: &[PathBuf]) -> Result<()> {
    let mut output = io::stdout().lock();
    for path in paths {
        writeln!(output, "{}", path.display())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<clap::ArgMatches, clap::Error> {
        PkiCommand::augment_subcommands(clap::Command::new("pki"))
            .try_get_matches_from(line.split(' '))
    }

    #[test]
    fn contradicting_arguments_are_refused() {
        for line in [
            "pki issue --dir d",
            "pki issue --server a",
            "pki issue --dir d --server a --client b",
            "pki issue --dir d --client a --san b",
            "pki issue --dir d --client a --csr f --key-type rsa",
            "pki issue --dir d --client a --days 0",
            "pki init --dir d --subject X=1",
            "pki init --dir d --out o",
            "pki quickstart --dir d --server a",
            "pki show",
        ] {
            parse(line).expect_err(line);
        }
    }

    #[test]
    fn documented_lines_are_understood() {
        for line in [
            "pki init --dir d --days 10 --subject C=IT,O=X --force",
            "pki issue --dir d --server a --san b --san 10.0.0.1 --key-type ed25519",
            "pki issue --dir d --client spiffe://example.com/a --subject OU=x",
            "pki issue --csr f --dir d --client a",
            "pki issue --dir d --server a --out o --force",
            "pki quickstart --dir d --server a --san b --client c",
            "pki show f --json",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
