//! Who waits for which pod, and what each still lacks. Pure: what is known and the time go in, answers come out.
//!
//! A pod is in force when these hold at one moment, in this order; each rests on the one before:
//!
//! ```text
//!   the fastpath is in sync ─► its endpoint has been said, for this sandbox, with these addresses, and nothing is still to be said
//!     ─► the fastpath has acknowledged that ─► its port is open, by a look that began after the acknowledgement
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use caracal_cni::node_socket::{Answer, Code, Failure, Wait};
use caracal_plane_api::{Op, StatusReport, op};

use crate::plane::address;

/// More wait in vain: a node has a few hundred pods.
pub const WAITERS_MAX: usize = 4096;
/// Nobody waits longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// How soon ports are looked at again, …
const LOOK_FIRST: Duration = Duration::from_millis(5);
/// … doubling up to this while nobody new waits for one.
const LOOK_LIMIT: Duration = Duration::from_millis(100);

/// What the fastpath has been said of this node's pods.
#[derive(Debug, Default)]
pub struct Said {
    endpoints: BTreeMap<String, Endpoint>,
    /// By the endpoint's id: the sandbox that the pod's addresses belong to, on this node.
    sandboxes: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Endpoint {
    interface: String,
    addresses: BTreeSet<IpAddr>,
    /// The number of the change that said so.
    change: u64,
}

impl Said {
    /// Takes what the change of this number says.
    pub fn apply(&mut self, ops: &[Op], change: u64) {
        for op in ops.iter().filter_map(|op| op.op.as_ref()) {
            match op {
                op::Op::Endpoint(endpoint) => {
                    let said = Endpoint {
                        interface: endpoint.interface.clone(),
                        addresses: endpoint.addresses.iter().filter_map(|a| address(a)).collect(),
                        change,
                    };
                    self.endpoints.insert(endpoint.id.clone(), said);
                }
                op::Op::EndpointRemove(id) => {
                    self.endpoints.remove(id);
                }
                _ => {}
            }
        }
    }

    /// Takes the sandbox that a pod's object names; `None`: the pod is gone or elsewhere, or names none.
    pub fn set_sandbox(&mut self, namespace: &str, pod: &str, sandbox: Option<&str>) {
        let id = format!("{namespace}/{pod}");
        match sandbox {
            Some(sandbox) => drop(self.sandboxes.insert(id, sandbox.to_owned())),
            None => drop(self.sandboxes.remove(&id)),
        }
    }

    /// What the pod lacks before its port need be looked at. `adopted` is the number of the last change that the
    /// fastpath has acknowledged, if it is in sync.
    fn lack(&self, wait: &Wait, adopted: Option<u64>) -> Option<String> {
        let Some(adopted) = adopted else {
            return Some("the fastpath is not in sync".to_owned());
        };
        let id = id(wait);
        let sandbox = self.sandboxes.get(&id);
        if !wait.container_id.is_empty() && sandbox != Some(&wait.container_id) {
            return Some(match sandbox {
                None => "the agent has not seen the pod with a sandbox".to_owned(),
                Some(other) => format!("the pod's addresses are those of another sandbox, {other}"),
            });
        }
        let Some(said) = self.endpoints.get(&id) else {
            return Some("the agent has not seen the pod with an address, on this node".to_owned());
        };
        if said.interface != wait.interface {
            return Some(format!("its endpoint is at another interface, {}", said.interface));
        }
        if said.addresses != wait.addresses.iter().copied().collect() {
            let list: Vec<String> = said.addresses.iter().map(ToString::to_string).collect();
            return Some(format!("its endpoint has other addresses: {}", list.join(", ")));
        }
        (said.change > adopted).then(|| "the fastpath has not acknowledged its endpoint yet".to_owned())
    }
}

fn id(wait: &Wait) -> String {
    format!("{}/{}", wait.namespace, wait.pod)
}

/// Who waits; `A` is how each is answered.
#[derive(Debug)]
pub struct Waiters<A> {
    waiting: BTreeMap<u64, Waiter<A>>,
    next: u64,
    /// Those that the look at ports under way is for.
    looked_for: Option<BTreeSet<u64>>,
    look: Duration,
    look_at: Option<Instant>,
}

#[derive(Debug)]
struct Waiter<A> {
    wait: Wait,
    deadline: Instant,
    /// In words.
    lack: String,
    /// It lacks nothing but its port.
    wants_port: bool,
    answer: A,
}

impl<A> Default for Waiters<A> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: 0, looked_for: None, look: LOOK_FIRST, look_at: None }
    }
}

impl<A> Waiters<A> {
    /// Takes one more; gives it back when there are too many. Forgets those who no longer listen, first.
    ///
    /// # Errors
    /// The answer to give at once.
    pub fn add(
        &mut self,
        wait: Wait,
        answer: A,
        listens: impl Fn(&A) -> bool,
        now: Instant,
    ) -> Result<(), (A, Answer)> {
        self.waiting.retain(|_, waiter| listens(&waiter.answer));
        if self.waiting.len() >= WAITERS_MAX {
            let error = format!("{WAITERS_MAX} wait already");
            return Err((answer, Answer::Failure(Failure { error, code: Code::TooMany })));
        }
        let deadline = now + Duration::from_millis(wait.timeout_ms).min(TIMEOUT_MAX);
        let waiter = Waiter { wait, deadline, lack: String::new(), wants_port: false, answer };
        self.waiting.insert(self.next, waiter);
        self.next += 1;
        Ok(())
    }

    /// Whether anybody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Looks at everybody again, after something has been said or acknowledged. To be called only when nothing is
    /// known that has not been said.
    pub fn review(&mut self, said: &Said, adopted: Option<u64>, now: Instant) {
        for waiter in self.waiting.values_mut() {
            match said.lack(&waiter.wait, adopted) {
                Some(lack) => {
                    waiter.lack = lack;
                    waiter.wants_port = false;
                }
                None if !waiter.wants_port => {
                    waiter.wants_port = true;
                    waiter.lack = format!("port {} has not been looked at", waiter.wait.interface);
                    self.look = LOOK_FIRST;
                    self.look_at = Some(now);
                }
                None => {}
            }
        }
    }

    /// When [`Waiters::due`] has something to do, if ever.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        let look = self.look_at.filter(|_| self.looked_for.is_none());
        self.waiting.values().map(|waiter| waiter.deadline).chain(look).min()
    }

    /// Answers those whose time is over, and says whether ports are to be looked at now.
    #[must_use]
    pub fn due(&mut self, now: Instant) -> (Vec<(A, Answer)>, bool) {
        let answers = self.waiting.extract_if(.., |_, waiter| waiter.deadline <= now).map(|(_, waiter)| {
            let error = format!("{} is not in force in time: {}", id(&waiter.wait), waiter.lack);
            (waiter.answer, Answer::Failure(Failure { error, code: Code::Timeout }))
        });
        let answers = answers.collect();
        let looks = self.looked_for.is_none() && self.look_at.is_some_and(|at| at <= now);
        if looks {
            self.look_at = None;
            let wants =
                self.waiting.iter().filter(|(_, waiter)| waiter.wants_port).map(|(number, _)| *number);
            let wants: BTreeSet<u64> = wants.collect();
            self.looked_for = (!wants.is_empty()).then_some(wants);
        }
        (answers, looks && self.looked_for.is_some())
    }

    /// Takes what a look at the ports has shown, and answers those for whom it began and who lack nothing.
    #[must_use]
    pub fn looked(&mut self, seen: Result<&StatusReport, &str>, now: Instant) -> Vec<(A, Answer)> {
        let looked_for = self.looked_for.take().unwrap_or_default();
        let mut in_force = Vec::new();
        for number in looked_for {
            // Who lacks something again since the look began is not helped by it.
            let Some(waiter) = self.waiting.get_mut(&number).filter(|waiter| waiter.wants_port) else {
                continue;
            };
            match lack_of_port(&waiter.wait.interface, seen) {
                Some(lack) => waiter.lack = lack,
                None => in_force.extend(self.waiting.remove(&number)),
            }
        }
        if self.waiting.values().any(|waiter| waiter.wants_port) {
            let at = now + self.look;
            self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
            self.look = (self.look * 2).min(LOOK_LIMIT);
        }
        in_force.into_iter().map(|waiter| (waiter.answer, Answer::Wait { in_force: true })).collect()
    }

    /// Answers everybody that the agent ends.
    #[must_use]
    pub fn end(&mut self) -> Vec<(A, Answer)> {
        let failure = Failure { error: "the agent ends".to_owned(), code: Code::Stopping };
        let waiting = std::mem::take(&mut self.waiting).into_values();
        waiting.map(|waiter| (waiter.answer, Answer::Failure(failure.clone()))).collect()
    }
}

fn lack_of_port(interface: &str, seen: Result<&StatusReport, &str>) -> Option<String> {
    let status = match seen {
        Ok(status) => status,
        Err(why) => return Some(why.to_owned()),
    };
    if !status.in_sync {
        return Some("the fastpath is not in sync".to_owned());
    }
    match status.ports.iter().find(|port| port.name == interface) {
        Some(port) if port.up => None,
        Some(port) if port.detail.is_empty() => Some(format!("port {interface} is down")),
        Some(port) => Some(format!("port {interface} is down: {}", port.detail)),
        None => Some(format!("the fastpath has no port {interface} yet")),
    }
}

#[cfg(test)]
mod tests;
