//! What workers say on the control lane, and what they are answered.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tracing::Level;

use super::function::Notice;
use super::{MemberLane, Shell};
use crate::WorkerId;
use crate::control::{FromWorker, Schema, ToWorker};
use crate::listen::{PortRequest, Refusal};
use crate::supervisor::{self, State};

impl Shell {
    pub(super) fn heard(&mut self, worker: WorkerId, packet: FromWorker) -> Option<supervisor::Event> {
        let member = self.fleet.get(&worker)?;
        match (&member.lane, packet) {
            (MemberLane::Kept(_), FromWorker::Hello { up, down }) => self.greet(worker, &up, &down),
            (MemberLane::Kept(_), _) => self.misbehaved(worker, "it spoke before it said hello"),
            (MemberLane::HandedOver, FromWorker::Hello { .. }) => self.misbehaved(worker, "it said hello twice"),
            (MemberLane::HandedOver, FromWorker::Listen { request, port }) => self.listen(worker, request, &port),
            (MemberLane::HandedOver, FromWorker::Ready) => {
                self.has_served = true;
                if self.state_of(worker) == Some(State::Starting) {
                    self.reporter.worker(Level::INFO, member.identity, Some(member.pid), "ready");
                    self.unsent.push(Notice::Ready(worker));
                    self.ports.look();
                }
                Some(supervisor::Event::Ready(worker))
            }
            (MemberLane::HandedOver, FromWorker::Leaving) => Some(supervisor::Event::Leaving(worker)),
            (MemberLane::HandedOver, FromWorker::Drained(port)) => {
                // Only where nobody comes after it; elsewhere a successor wants the queue.
                if member.drains_last {
                    self.ports.drained(member.identity.slot, port);
                }
                None
            }
            (MemberLane::HandedOver, FromWorker::Peer { slot, worker: other }) => self.introduce(worker, slot, other),
            (MemberLane::HandedOver, FromWorker::TicketKeys { lifetime }) => self.give_ticket_keys(worker, lifetime),
        }
    }

    /// Tells off a worker that broke the protocol on one of its lanes.
    pub(super) fn misbehaved(&mut self, worker: WorkerId, text: &str) -> Option<supervisor::Event> {
        self.give_up_on(worker, format_args!("broke the protocol and is killed: {text}"))
    }

    fn give_up_on(&mut self, worker: WorkerId, text: std::fmt::Arguments<'_>) -> Option<supervisor::Event> {
        let member = self.fleet.get(&worker)?;
        // What it still says before it is gone is as wrong as what it has said.
        if self.state_of(worker) == Some(State::Killed) {
            return None;
        }
        self.reporter.worker(Level::ERROR, member.identity, Some(member.pid), text);
        self.complaints.insert(worker, text.to_string());
        Some(supervisor::Event::Misbehaved(worker))
    }

    /// Lets the worker in if its build has the same messages.
    fn greet(&mut self, worker: WorkerId, up: &Schema, down: &Schema) -> Option<supervisor::Event> {
        let ours = &self.schemas;
        let difference = |of: &Schema, ours| of.difference(ours, "the primary's");
        if let Some(text) = difference(up, &ours.0).or_else(|| difference(down, &ours.1)) {
            _ = self.fleet.get(&worker)?.control.send_now(&ToWorker::Refused, &[]);
            return self.misbehaved(worker, &format!("{text}: it is of another build"));
        }
        let member = self.fleet.get_mut(&worker)?;
        let (slot, grace) = (member.identity.slot, self.settings.grace);
        let sent = self.ports.welcome(&member.control, slot, worker, grace, member.max_message);
        let sent = match sent {
            Ok(()) if self.is_stop_announced => member.control.send_now(&ToWorker::StopSoon, &[]),
            sent => sent,
        };
        if let MemberLane::Kept(lane) = std::mem::replace(&mut member.lane, MemberLane::HandedOver) {
            self.unsent.push(Notice::Online(worker, lane));
        }
        self.appoint_leads();
        self.check_sent(worker, &sent)
    }

    fn listen(&mut self, worker: WorkerId, request: u64, port: &PortRequest) -> Option<supervisor::Event> {
        let slot = self.fleet.get(&worker)?.identity.slot;
        if let Some(damage) = self.ports.examine_request(slot, port) {
            // Another worker of the slot has had it before, or still has.
            self.tell_damage(&damage, self.other_of(slot, worker));
        }
        let member = self.fleet.get_mut(&worker)?;
        let control = Arc::clone(&member.control);
        let allowed = match self.ports.has_port(&port.key) {
            true => Ok(()),
            false => self.workplace.check_port(&port.key.endpoint, !self.has_served),
        };
        let slot = member.identity.slot;
        let sent = match allowed.and_then(|()| self.ports.listen(slot, port)) {
            Ok((granted, socket)) => {
                if member.ports.insert(granted.port) {
                    self.unsent.push(Notice::Listening(worker, granted.address.clone()));
                }
                let fds: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
                control.send_now(&ToWorker::Listening { request, outcome: Ok(granted) }, &fds)
            }
            Err(error) => {
                let outcome = Err(Refusal::of(&error));
                control.send_now(&ToWorker::Listening { request, outcome }, &[])
            }
        };
        self.check_sent(worker, &sent)
    }

    /// A worker that does not read a handful of small packets will not read more either, and one that cannot be told what it needs
    /// would wait for it until its start timeout. One that is gone is reaped soon.
    pub(super) fn check_sent(&mut self, worker: WorkerId, sent: &io::Result<()>) -> Option<supervisor::Event> {
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.misbehaved(worker, "it does not read its control lane")
            }
            Err(error) if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                self.give_up_on(worker, format_args!("cannot be told what it needs and is killed: {error}"))
            }
            Ok(()) | Err(_) => None,
        }
    }
}
