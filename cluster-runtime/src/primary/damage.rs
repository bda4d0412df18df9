//! What is done when a worker has changed what it shares with others: it is told, those concerned get what replaces it, and a worker that
//! still lives goes.

use std::io;
use std::os::fd::AsFd as _;

use nix::unistd::Pid;
use tracing::Level;

use super::ports::{Damage, Remedy};
use super::{Member, MemberLane, Shell};
use crate::WorkerId;
use crate::boot::Identity;
use crate::control::ToWorker;
use crate::listen::PortId;
use crate::supervisor;

/// A worker, as its lines in the log name it.
type Culprit = Option<(Identity, Option<Pid>)>;

impl Shell {
    /// A worker is gone. What it held is put right before another has it.
    pub(super) fn examine_what_it_had(&mut self, identity: Identity, pid: Option<Pid>) {
        let mut damages = self.ports.examine_slot(identity.slot);
        damages.extend(self.ports.examine_all());
        for damage in damages {
            self.tell_damage(&damage, Some((identity, pid)));
        }
    }

    /// The cluster goes on in another program.
    pub(super) fn examine_everything(&mut self) {
        let mut damages: Vec<_> = (0..self.ports.slots()).flat_map(|slot| self.ports.examine_slot(slot)).collect();
        damages.extend(self.ports.examine_all());
        for damage in damages {
            let culprit = damage.slot.and_then(|slot| self.of_slot(slot).next()).map(named);
            self.tell_damage(&damage, culprit);
        }
    }

    /// Looks for damage while its cause may still live; returns what the supervisor is to know.
    pub(super) fn look_after_what_is_shared(&mut self) -> Vec<supervisor::Event> {
        let mut events = Vec::new();
        for damage in self.ports.inspect() {
            let workers: Vec<_> = damage.slot.into_iter().flat_map(|slot| self.of_slot(slot).map(named)).collect();
            self.tell_damage(&damage, workers.first().copied());
            for (identity, _) in workers {
                events.extend(self.judge(identity.worker, damage.remedy));
            }
        }
        events
    }

    /// One that has lost its socket is to be replaced; one that does damage again is killed.
    fn judge(&mut self, worker: WorkerId, remedy: Remedy) -> Option<supervisor::Event> {
        let member = self.fleet.get_mut(&worker)?;
        if std::mem::replace(&mut member.has_done_damage, true) {
            return self.misbehaved(worker, "it changes what it shares with others again and again");
        }
        (remedy == Remedy::AnotherSocket).then_some(supervisor::Event::Leaving(worker))
    }

    /// Says what was found and done, and lets the workers have what is new.
    pub(super) fn tell_damage(&mut self, damage: &Damage, culprit: Culprit) {
        match culprit {
            Some((identity, pid)) => {
                let text = format_args!("has changed what it shares with others: {damage}");
                self.reporter.worker(Level::ERROR, identity, pid, text);
            }
            None => self.reporter.cluster(Level::ERROR, format_args!("something shared was changed: {damage}")),
        }
        if let Remedy::AnotherMailbox(slot) = damage.remedy {
            self.tell_mailbox(slot);
        }
    }

    /// The other worker that has the sockets of `slot`, if there is one.
    pub(super) fn other_of(&self, slot: usize, worker: WorkerId) -> Culprit {
        self.of_slot(slot).find(|member| member.identity.worker != worker).map(named)
    }

    /// Nothing more comes on a port from which the primary accepted.
    pub(super) fn tell_closed(&self, port: PortId) {
        for member in self.fleet.values().filter(|member| member.ports.contains(&port)) {
            // One that does not hear it waits until it is cut.
            _ = member.control.send_now(&ToWorker::Closed(port), &[]);
        }
    }

    fn tell_mailbox(&mut self, slot: usize) {
        for member in self.fleet.values().filter(|member| matches!(member.lane, MemberLane::HandedOver)) {
            let told = self.ports.tell_mailboxes(&member.control, slot..slot + 1);
            let told = match self.ports.mailbox(slot) {
                Some(mailbox) if member.identity.slot == slot => {
                    told.and_then(|()| member.control.send_now(&ToWorker::Mailbox, &[mailbox.as_fd()]))
                }
                Some(_) | None => told,
            };
            if told.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                let text = "does not read its control lane, so it does not know of a new mailbox";
                self.reporter.worker(Level::WARN, member.identity, Some(member.pid), text);
            }
        }
    }

    fn of_slot(&self, slot: usize) -> impl Iterator<Item = &Member> {
        self.fleet.values().filter(move |member| member.identity.slot == slot)
    }
}

fn named(member: &Member) -> (Identity, Option<Pid>) {
    (member.identity, Some(member.pid))
}
