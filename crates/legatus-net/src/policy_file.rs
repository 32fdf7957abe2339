//! Policy as a TOML file.
//!
//! ```toml
//! [[rule]]
//! name = "operators run everything"   # optional, for the log and the audit
//! identity = "ops-*"                   # pattern; "*" stands for any text, "?" for one character
//! module = "*"                         # pattern; left out: any module
//! effects = ["read", "write", "exec"]  # left out: any effects
//! action = "allow"                     # or "deny"
//! others = true                        # also the sessions of other identities; left out: own only
//! ```
//!
//! The first rule that matches decides; without a match the call is denied.

use legatus_core::{Decision, Effect, Effects, Pattern, Policy, Rule, line_of};
use serde::Deserialize;
use thiserror::Error;

/// A text is no policy.
#[derive(Debug, Error)]
#[error("line {line}: {message}")]
pub struct PolicyFileError {
    line: usize,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    name: Option<String>,
    identity: String,
    #[serde(default = "any")]
    module: String,
    effects: Option<Vec<FileEffect>>,
    action: FileDecision,
    #[serde(default)]
    others: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileEffect {
    Read,
    Write,
    Exec,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileDecision {
    Allow,
    Deny,
}

fn any() -> String {
    "*".to_owned()
}

/// Reads a policy from the text of its file.
///
/// # Errors
/// When the text is no TOML, or has unknown keys or values; the message tells the line.
pub fn parse_policy(text: &str) -> Result<Policy, PolicyFileError> {
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        PolicyFileError {
            line: line_of(text, start),
            message: error.message().trim_end().replace('\n', ": "),
        }
    })?;
    let rules = file.rule.into_iter().enumerate().map(|(index, rule)| Rule {
        name: rule.name.unwrap_or_else(|| format!("rule {}", index + 1)),
        identity: Pattern::new(&rule.identity),
        module: Pattern::new(&rule.module.to_ascii_lowercase()),
        effects: rule.effects.map_or(Effects::ALL, |effects| {
            effects.into_iter().map(Effect::from).collect()
        }),
        decision: match rule.action {
            FileDecision::Allow => Decision::Allow,
            FileDecision::Deny => Decision::Deny,
        },
        others: rule.others,
    });
    Ok(Policy::new(rules.collect()))
}

impl From<FileEffect> for Effect {
    fn from(effect: FileEffect) -> Self {
        match effect {
            FileEffect::Read => Self::Read,
            FileEffect::Write => Self::Write,
            FileEffect::Exec => Self::Exec,
        }
    }
}

#[cfg(test)]
mod tests {
    use legatus_core::{Peer, Spec};

    use super::*;

    #[test]
    fn unknown_keys_and_values_are_errors_that_tell_the_line() {
        for bad in [
            "[[rule]]\nidentity = \"a\"\naction = \"allow\"\nmodul = \"x\"",
            "[[rule]]\nidentity = \"a\"\naction = \"permit\"",
            "[[rule]]\nidentity = \"a\"\naction = \"allow\"\neffects = [\"run\"]",
            "[[rule]]\nidentity = \"a\"",
            "[[rules]]\nidentity = \"a\"\naction = \"allow\"",
        ] {
            let error = parse_policy(bad).unwrap_err().to_string();
            assert!(error.starts_with("line "), "{error}");
        }
        let error = parse_policy("\n[[rule]\n").unwrap_err().to_string();
        assert_eq!(error, "line 2: unclosed array table, expected `]`");
    }

    #[test]
    fn an_empty_policy_denies_everything() {
        let policy = parse_policy("").unwrap();
        let peer = Peer::assert_verified("ann");
        assert!(
            policy
                .authorise(&peer, &Spec::default(), Effects::NONE)
                .is_err()
        );
    }

    #[test]
    fn rules_are_read_in_their_order() {
        let policy = parse_policy(
            "[[rule]]\nidentity = \"eve\"\naction = \"deny\"\n\
             [[rule]]\nname = \"look\"\nidentity = \"*\"\nmodule = \"Shell\"\neffects = [\"read\"]\naction = \"allow\"\n",
        )
        .unwrap();
        let shell = Spec {
            name: "shell".into(),
            ..Spec::default()
        };
        let decide = |identity: &str, effects| {
            let peer = Peer::assert_verified(identity);
            policy
                .authorise(&peer, &shell, effects)
                .map(|permit| permit.rule().to_owned())
                .map_err(|denied| denied.rule)
        };
        assert_eq!(decide("eve", Effects::READ), Err(Some("rule 1".into())));
        assert_eq!(decide("ann", Effects::READ), Ok("look".into()));
        assert_eq!(decide("ann", Effects::EXEC), Err(None));
    }
}
