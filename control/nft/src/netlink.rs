//! The kernel's end: a netlink socket.
//!
//! The kernel works on a request within the system call that sends it, so when that returns, every answer waits to be read. A batch is
//! one datagram, however large; the socket's buffer is made to fit.

use std::collections::BTreeSet;
use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use crate::listing::{Elements, Listing, TableName, fields_of};
use crate::message::{
    Attributes, INET, Message, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Received, SUBSYSTEM,
};
use crate::transaction::Transaction;

const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENT: u16 = 13;

/// More than any datagram that the kernel sends in a dump.
const ANSWER_BYTES: usize = 256 << 10;
/// What a batch takes beyond its bytes.
const BUFFER_SLACK: usize = 64 << 10;
/// A dump that others disturb is begun anew, so often.
const ATTEMPTS: usize = 5;

/// What nf_tables would not do, and why.
#[derive(Debug, thiserror::Error)]
#[error("nf_tables: cannot {doing}: {source}{}", hint(.source))]
pub struct NftError {
    doing: String,
    source: io::Error,
}

impl NftError {
    fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> NftError {
        NftError { doing: doing.into(), source: source.into() }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => " (it takes CAP_NET_ADMIN)",
        Some(Errno::EPROTONOSUPPORT) => " (has this kernel nf_tables? try modprobe nf_tables)",
        Some(Errno::EOPNOTSUPP | Errno::ENOENT) => {
            " (nf_tables of the inet family with ct, fib and log expressions, and Linux 5.6, are needed)"
        }
        _ => "",
    }
}

/// A connection to nf_tables of the network namespace of the thread that opened it. Calls block while the kernel works.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    answer: Vec<u8>,
}

impl Nft {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has no such socket.
    pub fn open() -> Result<Nft, NftError> {
        let fail = |source: io::Error| NftError::new("open a netlink socket", source);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        // Errors come without the message that they are about.
        socket.set_cap_ack(true).map_err(fail)?;
        Ok(Nft { socket, answer: vec![0; ANSWER_BYTES] })
    }

    /// Makes a transaction's changes, all of them or none.
    ///
    /// # Errors
    /// The first change that the kernel refused; then nothing has changed.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let (bytes, last) = transaction.encode();
        let doing = || format!("send a batch of {} kB", bytes.len().div_ceil(1024));
        setsockopt(&self.socket, sockopt::SndBufForce, &(bytes.len() + BUFFER_SLACK))
            .map_err(|errno| NftError::new(doing(), errno))?;
        self.drain()?;
        self.socket
            .send_to(&bytes, &SocketAddr::new(0, 0), 0)
            .map_err(|source| NftError::new(doing(), source))?;
        let mut failure = None;
        let mut is_done = false;
        while let Some(length) = self.receive("read what became of a batch")? {
            for message in Received::all(self.answer.get(..length).unwrap_or_default()) {
                match message.errno() {
                    Some(0) => is_done |= message.sequence == last,
                    Some(errno) if failure.is_none() => {
                        let source = io::Error::from_raw_os_error(errno);
                        failure = Some(NftError::new(transaction.purpose(message.sequence), source));
                    }
                    _ => {}
                }
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None if is_done => Ok(()),
            None => Err(NftError::new("commit a batch", io::Error::other("the kernel did not answer"))),
        }
    }

    /// A table of family inet, whole.
    ///
    /// # Errors
    /// The kernel would not say.
    pub fn list(&mut self, table: &str) -> Result<Listing, NftError> {
        let exists = self.tables()?.iter().any(|found| found.family == "inet" && found.name == table);
        let mut listing = Listing { exists, ..Listing::default() };
        if !listing.exists {
            return Ok(listing);
        }
        let of_table = |to: &mut Attributes| {
            to.text(1, table);
        };
        self.dump("list the chains", GET_CHAIN, INET, of_table, |chain| {
            if chain.attributes().text(1).as_deref() == Some(table) {
                let _ = listing.add_chain(chain.attributes());
            }
        })?;
        self.dump("list the rules", GET_RULE, INET, of_table, |rule| {
            if rule.attributes().text(1).as_deref() == Some(table) {
                let _ = listing.add_rule(rule.attributes());
            }
        })?;
        let mut sets = Vec::new();
        self.dump("list the sets", GET_SET, INET, of_table, |set| {
            let set = set.attributes();
            if set.text(1).as_deref() == Some(table)
                && let Some(name) = set.text(2)
            {
                sets.push((name, fields_of(set)));
            }
        })?;
        for (name, fields) in sets {
            let mut elements = Elements::default();
            let of_set = |to: &mut Attributes| {
                to.text(1, table).text(2, &name);
            };
            self.dump("list the elements of a set", GET_ELEMENT, INET, of_set, |message| {
                if let Some(list) = message.attributes().nested(3) {
                    elements.add(&fields, list);
                }
            })?;
            listing.sets.insert(name, elements.into_set(fields));
        }
        Ok(listing)
    }

    /// Every table there is, of any family.
    ///
    /// # Errors
    /// The kernel would not say.
    pub fn tables(&mut self) -> Result<BTreeSet<TableName>, NftError> {
        let mut tables = BTreeSet::new();
        self.dump("list the tables", GET_TABLE, 0, |_| {}, |table| tables.extend(TableName::read(&table)))?;
        Ok(tables)
    }

    /// The chains of every table of any family, with their tables.
    ///
    /// # Errors
    /// The kernel would not say.
    pub fn chains(&mut self) -> Result<BTreeSet<(TableName, String)>, NftError> {
        let mut chains = BTreeSet::new();
        self.dump(
            "list the chains",
            GET_CHAIN,
            0,
            |_| {},
            |chain| {
                chains.extend(TableName::read(&chain).zip(chain.attributes().text(3)));
            },
        )?;
        Ok(chains)
    }

    /// Asks for all of a kind; what others change meanwhile has it asked for anew, from the first message on.
    fn dump(
        &mut self,
        doing: &'static str,
        kind: u16,
        family: u8,
        fill: impl Fn(&mut Attributes),
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), NftError> {
        for _ in 0..ATTEMPTS {
            if let Some(answers) = self.dump_once(doing, kind, family, &fill)? {
                answers
                    .iter()
                    .flat_map(|answer| Received::all(answer))
                    .filter(|m| m.kind >> 8 == SUBSYSTEM)
                    .for_each(&mut each);
                return Ok(());
            }
        }
        Err(NftError::new(doing, io::Error::other("others change it all the time")))
    }

    fn dump_once(
        &mut self,
        doing: &'static str,
        kind: u16,
        family: u8,
        fill: impl Fn(&mut Attributes),
    ) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        let fail = |source: io::Error| NftError::new(doing, source);
        self.drain()?;
        let mut bytes = Vec::new();
        Message::new(kind, NLM_F_DUMP, family, fill).write(1, 0, &mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(fail)?;
        let (mut answers, mut is_whole) = (Vec::new(), true);
        while let Some(length) = self.receive(doing)? {
            let answer = self.answer.get(..length).unwrap_or_default();
            for message in Received::all(answer) {
                is_whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match (message.kind, message.errno()) {
                    (NLMSG_DONE, _) => return Ok(is_whole.then_some(answers)),
                    // What was there a moment ago is gone.
                    (NLMSG_ERROR, Some(errno)) if errno == Errno::ENOENT as i32 => return Ok(None),
                    (NLMSG_ERROR, Some(errno)) if errno != 0 => {
                        return Err(fail(io::Error::from_raw_os_error(errno)));
                    }
                    _ => {}
                }
            }
            answers.push(answer.to_vec());
        }
        Err(fail(io::Error::other("the kernel's answer has no end")))
    }

    /// Throws away what is left of an earlier conversation.
    fn drain(&mut self) -> Result<(), NftError> {
        while self.receive("read")?.is_some() {}
        Ok(())
    }

    /// The next datagram that waits; how long it is.
    fn receive(&mut self, doing: &'static str) -> Result<Option<usize>, NftError> {
        let mut buffer: &mut [u8] = &mut self.answer;
        let flags = (MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC).bits();
        match self.socket.recv(&mut buffer, flags) {
            Ok(length) if length > ANSWER_BYTES => {
                Err(NftError::new(doing, io::Error::other("the kernel's answer is too long")))
            }
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(NftError::new(doing, source)),
        }
    }
}
