//! Who may call what, and the proof that a call was allowed.

use thiserror::Error;
use wildmatch::WildMatch;

use crate::{Effects, Fault, Peer, Registry, Spec, UnknownModule};

/// What a rule says to a call that matches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The call may run.
    Allow,
    /// The call must not run.
    Deny,
}

/// A pattern for identities or module names: `*` stands for any text, `?` for one character.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(WildMatch);

impl Pattern {
    /// A pattern from its text.
    pub fn new(text: &str) -> Self {
        Self(WildMatch::new(text))
    }

    /// The one text that fits; `None` if several do.
    fn literal(&self) -> Option<String> {
        let text = self.0.pattern();
        (!text.contains(['*', '?'])).then_some(text)
    }

    /// Whether the whole of `text` fits the pattern.
    pub fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }
}

/// One rule of a [`Policy`].
///
/// An allowing rule matches a call whose effects it covers all; a denying rule matches a call that
/// has any of its effects.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Names the rule in the log and in the audit.
    pub name: String,
    /// Which identities it is about.
    pub identity: Pattern,
    /// Which modules it is about, by their canonical names.
    pub module: Pattern,
    /// Which effects it is about.
    pub effects: Effects,
    /// What it says.
    pub decision: Decision,
    /// Whether an allowing rule reaches the kept calls of other identities, too.
    pub others: bool,
}

impl Rule {
    fn matches(&self, peer: &Peer, module: &str, effects: Effects) -> bool {
        let about_effects = match self.decision {
            Decision::Allow => self.effects.covers(effects),
            Decision::Deny => self.effects.intersects(effects) || effects == Effects::NONE,
        };
        about_effects && self.identity.matches(peer.identity()) && self.module.matches(module)
    }
}

/// The rules of a server: the first that matches decides; without a match the call is denied.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// Proof that policy allowed a call. Nothing but [`Policy::authorise`] makes one:
///
/// ```compile_fail
/// let forged = legatus_core::Permit { rule: "mine".into(), effects: legatus_core::Effects::ALL };
/// ```
#[derive(Debug)]
#[must_use]
pub struct Permit {
    rule: String,
    effects: Effects,
}

impl Permit {
    /// The rule that allowed the call.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The effects that the call was allowed to have.
    pub fn effects(&self) -> Effects {
        self.effects
    }
}

/// Policy forbids a call.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{identity}` may not call `{module}` with the effects {effects}")]
pub struct Denied {
    /// Who called.
    pub identity: String,
    /// What was called.
    pub module: String,
    /// What the call would have done.
    pub effects: Effects,
    /// The rule that denied it; `None` if no rule matched.
    pub rule: Option<String>,
}

/// A rule of a [`Policy`] names a module in a way that no call has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misnamed {
    /// The rule's name.
    pub rule: String,
    /// What it says.
    pub name: String,
    /// The name of the module if that was an alias, or told where it comes from; else why there is none.
    pub meant: Result<String, UnknownModule>,
}

impl From<&Denied> for Fault {
    fn from(denied: &Denied) -> Self {
        Self::new(denied.to_string()).with_hint("the server's policy decides; ask whoever keeps it")
    }
}

impl Policy {
    /// A policy of these rules, the first match deciding.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// A policy that allows everyone everything, for servers without `--policy`, for children
    /// whose server has decided already, and for test kits. `name` appears as the rule's name.
    pub fn allow_all(name: impl Into<String>) -> Self {
        Self::new(vec![Rule {
            name: name.into(),
            identity: Pattern::new("*"),
            module: Pattern::new("*"),
            effects: Effects::ALL,
            decision: Decision::Allow,
            others: false,
        }])
    }

    /// The rules that name a module which there is not, and so are about nothing.
    pub fn misnamed(&self, registry: &Registry) -> Vec<Misnamed> {
        let known = |name: &str| {
            let mut modules = registry.qualified();
            modules.any(|(_, module)| module.spec().name == name)
        };
        let named = self.rules.iter().filter_map(|rule| {
            let name = rule.module.literal().filter(|name| !known(name))?;
            Some((rule, name))
        });
        let misnamed = named.map(|(rule, name)| Misnamed {
            rule: rule.name.clone(),
            meant: match (name.rsplit_once(['/', ':']), registry.resolve(&name)) {
                (Some((_, plain)), _) => Ok(plain.to_owned()),
                (None, Ok(module)) => Ok(module.spec().name.to_string()),
                (None, Err(unknown)) => Err(unknown),
            },
            name,
        });
        misnamed.collect()
    }

    /// Whether a peer may list, attach to and end the kept calls that others have made of a module.
    pub fn reaches_others(&self, peer: &Peer, spec: &Spec) -> bool {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.matches(peer, &spec.name, spec.effects));
        rule.is_some_and(|rule| rule.decision == Decision::Allow && rule.others)
    }

    /// Decides whether a peer may call a module with these effects.
    ///
    /// # Errors
    /// When a rule denies it, or none matches.
    pub fn authorise(&self, peer: &Peer, spec: &Spec, effects: Effects) -> Result<Permit, Denied> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.matches(peer, &spec.name, effects));
        match rule {
            Some(rule) if rule.decision == Decision::Allow => Ok(Permit {
                rule: rule.name.clone(),
                effects,
            }),
            other => Err(Denied {
                identity: peer.identity().to_owned(),
                module: spec.name.to_string(),
                effects,
                rule: other.map(|rule| rule.name.clone()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Alias, Module};

    struct Aliased(Spec);

    impl Module for Aliased {
        fn spec(&self) -> &Spec {
            &self.0
        }
    }

    fn rule(
        name: &str,
        identity: &str,
        module: &str,
        effects: Effects,
        decision: Decision,
    ) -> Rule {
        Rule {
            name: name.into(),
            identity: Pattern::new(identity),
            module: Pattern::new(module),
            effects,
            decision,
            others: false,
        }
    }

    fn decide(
        policy: &Policy,
        identity: &str,
        module: &str,
        effects: Effects,
    ) -> Result<String, Option<String>> {
        let spec = Spec {
            name: module.to_owned().into(),
            ..Spec::default()
        };
        policy
            .authorise(&Peer::assert_verified(identity), &spec, effects)
            .map(|permit| permit.rule().to_owned())
            .map_err(|denied| denied.rule)
    }

    #[test]
    fn without_a_matching_rule_a_call_is_denied() {
        let policy = Policy::new(vec![rule(
            "r",
            "ops-*",
            "shell",
            Effects::ALL,
            Decision::Allow,
        )]);
        assert_eq!(decide(&policy, "dev-1", "shell", Effects::EXEC), Err(None));
        assert_eq!(decide(&policy, "ops-1", "echo", Effects::NONE), Err(None));
        assert_eq!(
            decide(&Policy::new(vec![]), "a", "b", Effects::NONE),
            Err(None)
        );
    }

    #[test]
    fn the_first_match_decides() {
        let policy = Policy::new(vec![
            rule("no", "eve", "*", Effects::ALL, Decision::Deny),
            rule("yes", "*", "*", Effects::ALL, Decision::Allow),
        ]);
        assert_eq!(
            decide(&policy, "eve", "shell", Effects::EXEC),
            Err(Some("no".into()))
        );
        assert_eq!(
            decide(&policy, "eve", "echo", Effects::NONE),
            Err(Some("no".into()))
        );
        assert_eq!(
            decide(&policy, "ann", "shell", Effects::EXEC),
            Ok("yes".into())
        );
    }

    #[test]
    fn an_allowing_rule_must_cover_every_effect_of_a_call() {
        let policy = Policy::new(vec![rule("read", "*", "*", Effects::READ, Decision::Allow)]);
        assert_eq!(decide(&policy, "a", "cp", Effects::READ), Ok("read".into()));
        let more = Effects::READ.union(Effects::WRITE);
        assert_eq!(decide(&policy, "a", "cp", more), Err(None));
    }

    #[test]
    fn a_denying_rule_needs_only_one_effect_of_a_call() {
        let policy = Policy::new(vec![
            rule("no writes", "*", "*", Effects::WRITE, Decision::Deny),
            rule("rest", "*", "*", Effects::ALL, Decision::Allow),
        ]);
        let both = Effects::READ.union(Effects::WRITE);
        assert_eq!(
            decide(&policy, "a", "cp", both),
            Err(Some("no writes".into()))
        );
        assert_eq!(decide(&policy, "a", "cp", Effects::READ), Ok("rest".into()));
    }

    #[test]
    fn rules_about_nothing_are_told_with_what_was_meant() {
        let spec = Spec {
            name: "aliased".into(),
            aliases: vec![Alias::name("other-name")],
            ..Spec::default()
        };
        let mut registry = Registry::new();
        registry.add(Aliased(spec)).unwrap();
        let all = Effects::ALL;
        let policy = Policy::new(vec![
            rule("typo", "*", "aliase", all, Decision::Deny),
            rule("alias", "*", "other-name", all, Decision::Deny),
            rule("origin", "*", "builtin:aliased", all, Decision::Deny),
            rule("fine", "*", "aliased", all, Decision::Deny),
            rule("all", "*", "*", all, Decision::Allow),
        ]);
        let told = policy.misnamed(&registry).into_iter().map(|misnamed| {
            let meant = misnamed.meant.map_err(|unknown| unknown.nearest);
            (misnamed.rule, meant)
        });
        let expected = [
            ("typo".to_owned(), Err(Some("aliased".to_owned()))),
            ("alias".to_owned(), Ok("aliased".to_owned())),
            ("origin".to_owned(), Ok("aliased".to_owned())),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
