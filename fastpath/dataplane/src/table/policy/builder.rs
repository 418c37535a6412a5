//! The controller's part of a [`PolicyTable`]: which lists there are, and for which classes they are compiled.
//!
//! A *content* is what a list says; it is compiled once. A *list* is a content as it judges one endpoint: where the
//! content looks at sets on the local side, the classes of the endpoint's own addresses belong to the list's identity,
//! so that a list id and a peer class still say all that a verdict rests on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;
use rustc_hash::FxHashMap;

use super::classes::Classes;
use super::classes::Content as ClassContent;
use super::compile::{Chosen, CompiledPolicy, ListCompiler};
use super::explain::{self, Explanation};
use super::list::{List, Packed, Walked};
use super::rules::{self, Binding, Fallback, Owner, RuleError, RuleList};
use super::sets::{Member, SetId, SetNames};
use super::{
    ClassId, FlowDirection, FlowTuple, LISTS_PAGE, LOGS_PAGE, LogListId, Logged, PolicyListId, PolicyTable,
    RuleId, RuleName,
};
use crate::table::paged::PagedBuilder;
use crate::table::rule_counters::RuleCounters;

/// Everything that is looked up to judge a flow, being changed.
#[derive(Debug)]
pub(in crate::table) struct PolicyBuilder {
    workers: u16,
    sets: SetNames,
    classes: Classes,
    names: RuleNames,
    logs: LogLists,
    last_version: u64,
    contents: FxHashMap<ContentNumber, Content>,
    by_key: FxHashMap<ContentKey, ContentNumber>,
    last_content: ContentNumber,
    /// The contents that mention a set.
    mentions: FxHashMap<SetId, BTreeSet<ContentNumber>>,
    by_list: FxHashMap<PolicyListId, (ContentNumber, LocalKey)>,
    last_list: u32,
    /// Contents whose lists readers do not have as they are now.
    changed: BTreeSet<ContentNumber>,
    lists: PagedBuilder<Option<Arc<CompiledPolicy>>, LISTS_PAGE>,
    counters: RuleCounters,
    /// What readers were last given.
    published: PolicyTable,
}

type ContentNumber = u64;

/// What a list says, by the versions of the rules in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ContentKey {
    direction: FlowDirection,
    tiers: Vec<(Arc<str>, bool, Vec<u64>)>,
    profiles: Vec<u64>,
}

/// The endpoint's own addresses with their classes; of none where they do not matter.
type LocalKey = Vec<(IpAddr, ClassId)>;

#[derive(Debug)]
struct Content {
    key: ContentKey,
    compiler: ListCompiler,
    lists: FxHashMap<LocalKey, ListUse>,
}

#[derive(Debug)]
struct ListUse {
    id: PolicyListId,
    users: usize,
    chosen: Chosen,
}

impl PolicyBuilder {
    pub fn new(workers: u16) -> PolicyBuilder {
        PolicyBuilder {
            workers,
            sets: SetNames::default(),
            classes: Classes::default(),
            names: RuleNames::default(),
            logs: LogLists::default(),
            last_version: 0,
            contents: FxHashMap::default(),
            by_key: FxHashMap::default(),
            last_content: 0,
            mentions: FxHashMap::default(),
            by_list: FxHashMap::default(),
            last_list: 0,
            changed: BTreeSet::new(),
            lists: PagedBuilder::default(),
            counters: RuleCounters::default(),
            published: PolicyTable::default(),
        }
    }

    /// The number of a set's name.
    pub fn set(&mut self, name: &str) -> SetId {
        self.sets.intern(name)
    }

    /// A new member of `set`.
    pub fn join(&mut self, set: SetId, member: &Member) {
        self.classes.join(member.prefix, member.membership(set));
    }

    /// A former member of `set`.
    pub fn leave(&mut self, set: SetId, member: &Member) {
        self.classes.leave(member.prefix, member.membership(set));
    }

    /// Checks rules. Gives `former` back if they are the same, so that what is built on them stays the same.
    pub fn rule_list(
        &mut self,
        owner: &Owner,
        rules: &[plane::Rule],
        former: Option<&Arc<RuleList>>,
    ) -> Result<Arc<RuleList>, (usize, RuleError)> {
        let rules = rules::from_plane(rules, &mut self.sets)?;
        if let Some(former) = former.filter(|former| former.rules == rules && former.owner == *owner) {
            return Ok(Arc::clone(former));
        }
        self.last_version += 1;
        Ok(Arc::new(RuleList { owner: owner.clone(), version: self.last_version, rules }))
    }

    /// The class of an address, as of the last settling.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        self.classes.class_of(address)
    }

    /// Brings classes, and the lists compiled for them, up to date with the members of sets. Says whether any address may
    /// have another class now.
    pub fn settle(&mut self) -> bool {
        let Some(settled) = self.classes.settle() else { return false };
        for (class, content) in &settled.dead {
            for number in mentioning(&self.mentions, content) {
                if let Some(list) = self.contents.get_mut(&number) {
                    list.compiler.remove_class(*class);
                    self.changed.insert(number);
                }
            }
        }
        for class in settled.born {
            let content = self.classes.content(class);
            for number in mentioning(&self.mentions, &content) {
                if let Some(list) = self.contents.get_mut(&number) {
                    list.compiler.add_class(class, &content, &mut |judgement, rules| {
                        self.logs.intern(judgement, rules)
                    });
                    self.changed.insert(number);
                }
            }
        }
        true
    }

    /// The list of `binding` for an endpoint with these addresses, for which it is kept until released. Everything must
    /// be settled.
    pub fn bind(
        &mut self,
        direction: FlowDirection,
        binding: &Binding,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> PolicyListId {
        let versions = |lists: &[Arc<RuleList>]| lists.iter().map(|list| list.version).collect();
        let tiers = binding.tiers.iter();
        let tiers = tiers.map(|tier| (Arc::clone(&tier.name), tier.default_deny, versions(&tier.policies)));
        let profiles = match &binding.fallback {
            Fallback::Profiles(profiles) => versions(profiles),
            Fallback::Undecided => Vec::new(),
        };
        let key = ContentKey { direction, tiers: tiers.collect(), profiles };
        let number = match self.by_key.get(&key) {
            Some(number) => *number,
            None => self.compile(key, binding),
        };
        let local = self.local_classes(number, addresses);
        self.retain(number, local)
    }

    /// A list that is asked rule by rule, as those of host endpoints are.
    pub fn list(&mut self, direction: FlowDirection, binding: &Binding) -> Arc<List> {
        Arc::new(List::new(direction, binding, &mut |name| self.names.intern(name)))
    }

    /// How a flow fares in a list of the last build, and whether the compiled tables say the same.
    pub fn explain(&self, list: PolicyListId, flow: &FlowTuple) -> Option<Explanation> {
        let (number, _) = self.by_list.get(&list)?;
        let rules = self.contents.get(number)?.compiler.list();
        let mut explanation = self.explain_list(rules, flow).0;
        let compiled = self.published.judge(list, self.published.class_of(flow.peer_address), flow);
        let compiled = self.rule_name(compiled.rule).cloned();
        explanation.disagreement = compiled.filter(|compiled| Some(compiled) != explanation.decided.as_ref());
        Some(explanation)
    }

    /// How a flow fares in a list.
    pub fn explain_list(&self, list: &List, flow: &FlowTuple) -> (Explanation, Walked) {
        let content = |address| self.classes.content(self.published.class_of(address));
        let (local, peer) = (content(flow.local_address), content(flow.peer_address));
        let name = |rule| self.rule_name(rule).cloned().unwrap_or(RuleName::NoProfileMatch);
        explain::explain(list, flow, &local, &peer, &self.sets, name)
    }

    /// The list in place of `list` after classes have changed: the same, unless it looks at the local side.
    pub fn rebind(&mut self, list: PolicyListId, addresses: impl Iterator<Item = IpAddr>) -> PolicyListId {
        let Some(number) = self.by_list.get(&list).map(|(number, _)| *number) else { return list };
        let local = self.local_classes(number, addresses);
        if local.is_empty() {
            return list;
        }
        let rebound = self.retain(number, local);
        self.release(list);
        rebound
    }

    /// An endpoint no longer uses `list`.
    pub fn release(&mut self, list: PolicyListId) {
        let Some((number, local)) = self.by_list.get(&list) else { return };
        let Some(content) = self.contents.get_mut(number) else { return };
        let Some(list_use) = content.lists.get_mut(local) else { return };
        list_use.users -= 1;
        if list_use.users > 0 {
            return;
        }
        content.compiler.release(&list_use.chosen);
        content.lists.remove(local);
        let number = *number;
        self.by_list.remove(&list);
        self.lists.clear(list.0 as usize);
        if self.contents.get(&number).is_some_and(|content| content.lists.is_empty())
            && let Some(content) = self.contents.remove(&number)
        {
            self.by_key.remove(&content.key);
            for set in content.compiler.sets() {
                if let Some(numbers) = self.mentions.get_mut(&set) {
                    numbers.remove(&number);
                    if numbers.is_empty() {
                        self.mentions.remove(&set);
                    }
                }
            }
        }
    }

    pub fn snapshot(&mut self) -> PolicyTable {
        for number in std::mem::take(&mut self.changed) {
            let Some(content) = self.contents.get_mut(&number) else { continue };
            for list_use in content.lists.values() {
                let compiled = content.compiler.compiled(&list_use.chosen);
                self.lists.set(list_use.id.0 as usize, Some(compiled));
            }
        }
        if self.counters.capacity() < self.names.count() {
            self.counters = self.counters.grown(self.workers, self.names.count());
        }
        let classes = self.classes.snapshot();
        self.published = PolicyTable {
            identities: classes.identities,
            classes: classes.classes,
            contents: classes.contents,
            lists: self.lists.snapshot(),
            logs: self.logs.by_id.snapshot(),
            counters: self.counters.clone(),
        };
        self.published.clone()
    }

    /// Everything that can decide.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleName)> {
        self.names.by_id.iter().enumerate().map(|(id, name)| (RuleId(id as u32), &**name))
    }

    /// What `rule` is.
    pub fn rule_name(&self, rule: RuleId) -> Option<&RuleName> {
        self.names.by_id.get(rule.0 as usize).map(|name| &**name)
    }

    fn compile(&mut self, key: ContentKey, binding: &Binding) -> ContentNumber {
        let names = &mut self.names;
        let list = List::new(key.direction, binding, &mut |name| names.intern(name));
        let mut compiler = ListCompiler::new(list);
        self.last_content += 1;
        let number = self.last_content;
        let mut classes = BTreeSet::new();
        for set in compiler.sets() {
            classes.extend(self.classes.with(set));
            self.mentions.entry(set).or_default().insert(number);
        }
        for class in classes {
            compiler.add_class(class, &self.classes.content(class), &mut |judgement, rules| {
                self.logs.intern(judgement, rules)
            });
        }
        self.by_key.insert(key.clone(), number);
        self.contents.insert(number, Content { key, compiler, lists: FxHashMap::default() });
        number
    }

    fn local_classes(&mut self, number: ContentNumber, addresses: impl Iterator<Item = IpAddr>) -> LocalKey {
        let looks = self.contents.get(&number).is_some_and(|content| content.compiler.list().looks_at_local);
        if !looks {
            return Vec::new();
        }
        addresses.map(|address| (address, self.classes.class_of(address))).collect()
    }

    fn retain(&mut self, number: ContentNumber, local: LocalKey) -> PolicyListId {
        let Some(content) = self.contents.get_mut(&number) else { return PolicyListId::default() };
        if let Some(list_use) = content.lists.get_mut(&local) {
            list_use.users += 1;
            return list_use.id;
        }
        self.last_list += 1;
        let id = PolicyListId(self.last_list);
        let classes = &self.classes;
        let addresses: Vec<(IpAddr, ClassContent)> =
            local.iter().map(|(address, class)| (*address, classes.content(*class))).collect();
        let chosen =
            content.compiler.choose(&addresses, &mut |judgement, rules| self.logs.intern(judgement, rules));
        content.lists.insert(local.clone(), ListUse { id, users: 1, chosen });
        self.by_list.insert(id, (number, local));
        self.changed.insert(number);
        id
    }
}

/// The contents that mention any set of a class.
fn mentioning(
    mentions: &FxHashMap<SetId, BTreeSet<ContentNumber>>,
    class: &super::classes::Content,
) -> Vec<ContentNumber> {
    let mentioning = class.iter().filter_map(|membership| mentions.get(&membership.set));
    let mut numbers: Vec<ContentNumber> = mentioning.flatten().copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Judgements with the Log rules before them, by id.
#[derive(Debug, Default)]
struct LogLists {
    by_content: FxHashMap<(Packed, Box<[RuleId]>), LogListId>,
    by_id: PagedBuilder<Option<Arc<Logged>>, LOGS_PAGE>,
}

impl LogLists {
    /// What stands for `judgement` once `rules` are passed.
    fn intern(&mut self, judgement: Packed, rules: &[RuleId]) -> Packed {
        let key: (Packed, Box<[RuleId]>) = (judgement, rules.into());
        if let Some(id) = self.by_content.get(&key) {
            return Packed::logged(*id);
        }
        let id = LogListId(self.by_content.len() as u32 + 1);
        let logged = Logged { judgement, rules: rules.into() };
        self.by_id.set(id.0 as usize, Some(Arc::new(logged)));
        self.by_content.insert(key, id);
        Packed::logged(id)
    }
}

/// The names of what can decide, by id.
#[derive(Debug)]
struct RuleNames {
    by_id: Vec<Arc<RuleName>>,
    by_name: FxHashMap<Arc<RuleName>, RuleId>,
}

impl Default for RuleNames {
    fn default() -> Self {
        let mut names = RuleNames { by_id: Vec::new(), by_name: FxHashMap::default() };
        for (id, name) in [
            (RuleId::NO_PROFILE_MATCH, RuleName::NoProfileMatch),
            (RuleId::FAILSAFE, RuleName::Failsafe),
            (RuleId::NO_FORWARD_POLICY, RuleName::NoForwardPolicy),
        ] {
            let interned = names.intern(name);
            debug_assert_eq!(interned, id);
        }
        names
    }
}

impl RuleNames {
    fn intern(&mut self, name: RuleName) -> RuleId {
        if let Some(id) = self.by_name.get(&name) {
            return *id;
        }
        let (id, name) = (RuleId(self.by_id.len() as u32), Arc::new(name));
        self.by_id.push(Arc::clone(&name));
        self.by_name.insert(name, id);
        id
    }

    fn count(&self) -> u32 {
        self.by_id.len() as u32
    }
}
