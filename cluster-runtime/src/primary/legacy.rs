//! What a primary leaves to the program that it becomes: one block of plain data, and descriptors that stay open.
//!
//! Whoever reads it may be of another build. So it begins with a number for its layout, and a trial reads all of it before anything is
//! given up for it.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::SigSet;
use serde::{Deserialize, Serialize};

use super::ports::{Ports, PortsState};
use super::signals::Request;
use super::tickets::Tickets;
use crate::board::{self, Sheet};
use crate::boot::{self, Succession, Trial};
use crate::config::Settings;
use crate::control::{self, Schema};
use crate::error::exit_code;
use crate::ipc::{Message, Suspended, codec};
use crate::listen::{Dispatch, PortId};
use crate::report::say;
use crate::supervisor::Memory;
use crate::{Exit, WorkerId, os};

/// Raised whenever [`Legacy`] changes, or anything in it.
const LAYOUT: u32 = 5;
/// What the block begins with: the layout, and the codec by which the rest is written.
const HEAD: u32 = LAYOUT | (codec::MARK as u32) << CODEC;
/// Where the codec's mark stands.
const CODEC: u32 = 8;

/// Everything that goes on in the next program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Legacy {
    /// What workers that run speak, and how the board that they write is laid out.
    protocol: u8,
    board: u64,
    schemas: (Schema, Schema),
    /// Where the program was started from.
    pub(super) program: Vec<u8>,
    /// As many workers as the settings said, whatever was ordered since.
    pub(super) configured: usize,
    pub(super) memory: Memory,
    stalled: Duration,
    ports: Option<PortsState>,
    pub(super) port_fds: Vec<RawFd>,
    pub(super) members: Vec<MemberState>,
    /// Workers that are gone and have left messages.
    pub(super) departed: Vec<(WorkerId, Suspended, Exit)>,
    /// The programs of the generations.
    pub(super) images: Vec<(u64, RawFd)>,
    /// What the user's primary function carries over.
    pub(super) carried: Option<Bytes>,
    /// What was asked for when it was too late to act on it.
    pub(super) late: Vec<Request>,
    pub(super) tickets: Tickets,
    /// When the program before has put everything down, on the board's clock: nobody has supervised since.
    left_at: u64,
    /// The program that runs, to go back to.
    pub(super) origin: RawFd,
}

/// A worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MemberState {
    pub(super) worker: WorkerId,
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) pid: i32,
    pub(super) control: RawFd,
    pub(super) lane: LaneState,
    pub(super) max_message: usize,
    /// The primary's ends of the pipes for what it prints.
    pub(super) output: Option<[RawFd; 2]>,
    /// The path of its log file.
    pub(super) log: Option<Vec<u8>>,
    pub(super) ports: BTreeSet<PortId>,
    pub(super) peers: BTreeSet<WorkerId>,
    pub(super) drains_last: bool,
}

/// Its messages.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum LaneState {
    /// It has not said hello; what is sent to it waits.
    Kept(RawFd, Option<Suspended>),
    /// Without a socket: the lane has ended, and the worker soon has.
    Suspended(Option<RawFd>, Suspended),
    /// In a trial nothing is taken apart.
    Untouched,
}

impl Legacy {
    /// What does not depend on the state.
    pub(super) fn frame<Up: Message, Down: Message>() -> (u8, u64, (Schema, Schema)) {
        (control::PROTOCOL, size_of::<Sheet>() as u64, (Schema::of::<Up>(), Schema::of::<Down>()))
    }

    #[expect(clippy::too_many_arguments, reason = "it is all there is")]
    pub(super) fn new(
        schemas: (Schema, Schema),
        program: OsString,
        configured: usize,
        memory: Memory,
        stalled: Duration,
        (ports, port_fds): (PortsState, Vec<RawFd>),
        members: Vec<MemberState>,
        departed: Vec<(WorkerId, Suspended, Exit)>,
        images: Vec<(u64, RawFd)>,
        carried: Option<Bytes>,
        late: Vec<Request>,
        tickets: Tickets,
        origin: RawFd,
    ) -> Self {
        Self {
            protocol: control::PROTOCOL,
            board: size_of::<Sheet>() as u64,
            schemas,
            program: program.into_vec(),
            configured,
            memory,
            stalled,
            ports: Some(ports),
            port_fds,
            members,
            departed,
            images,
            carried,
            late,
            tickets,
            left_at: board::now(),
            origin,
        }
    }

    /// How long this process has stood still, for the supervisor.
    pub(super) fn stalled(&self) -> Duration {
        self.stalled + Duration::from_nanos(board::now().saturating_sub(self.left_at))
    }

    pub(super) fn write(&self) -> io::Result<OwnedFd> {
        let mut bytes = HEAD.to_le_bytes().to_vec();
        bytes.extend(codec::encode_state(self).map_err(io::Error::other)?);
        os::create_state(&bytes)
    }

    /// # Errors
    /// A text for the operator.
    pub(super) fn read(state: &OwnedFd) -> Result<Self, String> {
        let bytes =
            os::read_state(state).map_err(|error| format!("what the primary leaves cannot be read: {error}"))?;
        let (head, bytes) = bytes.split_first_chunk().ok_or("what the primary leaves is cut short")?;
        check_head(u32::from_le_bytes(*head))?;
        codec::decode_state(bytes).map_err(|error| format!("what the primary leaves makes no sense to it: {error}"))
    }

    /// Whether a program of these settings and messages can go on with it.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) fn check<Up: Message, Down: Message>(&self, dispatch: &Dispatch) -> Result<(), String> {
        let (protocol, board, schemas) = Self::frame::<Up, Down>();
        if (protocol, board) != (self.protocol, self.board) {
            return Err(format!(
                "its workers speak protocol {protocol} of cluster's own, and those that run speak {}; stop the cluster and \
                 start it again",
                self.protocol
            ));
        }
        let running = &self.schemas;
        let difference = |of: &Schema, running| of.difference(running, "that of the workers that run,");
        if let Some(text) = difference(&schemas.0, &running.0).or_else(|| difference(&schemas.1, &running.1)) {
            return Err(format!("{text}; stop the cluster and start it again, or change messages in two steps"));
        }
        self.ports.as_ref().map_or(Ok(()), |ports| ports.check(dispatch)).map_err(|error| error.to_string())
    }

    /// The ports go on; their descriptors are duplicated, so that they can be given back.
    pub(super) fn adopt_ports(&mut self, dispatch: Dispatch, most_sockets: usize) -> io::Result<Ports> {
        let fds = self.port_fds.iter().map(|number| os::duplicate(*number)).collect::<io::Result<_>>()?;
        Ports::adopt(
            self.ports.take().ok_or_else(|| io::Error::other("the ports are missing"))?,
            fds,
            dispatch,
            most_sockets,
        )
    }

    /// Every descriptor that the next program takes over.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let of_member = |member: &MemberState| {
            let lane = match &member.lane {
                LaneState::Kept(fd, _) => Some(*fd),
                LaneState::Suspended(fd, _) => *fd,
                LaneState::Untouched => None,
            };
            [Some(member.control), lane]
                .into_iter()
                .flatten()
                .chain(member.output.into_iter().flatten())
                .collect::<Vec<_>>()
        };
        let members = self.members.iter().flat_map(of_member);
        let images = self.images.iter().map(|(_, fd)| *fd);
        let waiting = self.members.iter().filter_map(|member| match &member.lane {
            LaneState::Kept(_, suspended) => suspended.as_ref(),
            LaneState::Suspended(_, suspended) => Some(suspended),
            LaneState::Untouched => None,
        });
        let in_messages = waiting.chain(self.departed.iter().map(|(_, suspended, _)| suspended));
        members
            .chain(images)
            .chain(in_messages.flat_map(Suspended::descriptors))
            .chain(self.port_fds.iter().copied())
            .chain([self.origin])
            .collect()
    }
}

fn check_head(head: u32) -> Result<(), String> {
    let marks = u32::from(codec::MARKS) << CODEC;
    let layout = head & !marks;
    if layout != LAYOUT {
        return Err(format!(
            "it reads layout {LAYOUT} of what a primary leaves, and this one writes {layout}: its version of cluster \
             is another; stop the cluster and start it again"
        ));
    }
    if head != HEAD {
        let (its, ours) = (codec::feature(codec::MARK), codec::feature((head >> CODEC) as u8));
        return Err(format!(
            "it is built with cluster's feature `{its}`, and this one with `{ours}`; build it with the same, or stop the \
             cluster and start it again"
        ));
    }
    Ok(())
}

/// Answers for a program that is tried: whether it could go on, and as what. Returns the exit code.
pub(crate) fn answer<Up: Message, Down: Message>(trial: &Trial, settings: Result<&Settings, String>) -> u8 {
    let Trial { state, verdict } = trial;
    let outcome = settings.and_then(|settings| {
        let legacy = Legacy::read(state)?;
        legacy.check::<Up, Down>(&settings.dispatch)?;
        let (up, down) = (Schema::of::<Up>(), Schema::of::<Down>());
        let mut text = format!("protocol {}, {} workers configured", control::VERSION, settings.workers);
        _ = write!(text, ", messages {} ({}) and {} ({})", up.name, up.fingerprint, down.name, down.fingerprint);
        Ok(text)
    });
    let (code, text) = match outcome {
        Ok(text) => (0, format!("ok: {text}")),
        Err(text) => (1, text),
    };
    // Whoever has asked may have lost its patience.
    _ = nix::unistd::write(verdict, text.as_bytes());
    code
}

/// Becomes the program `image`, which finds the legacy in `state`; returns only if that cannot be done. With a `reason`, it is the
/// program that was, and the reason is why the one after it did not go on.
///
/// All signals that this thread may get are held back from here on, for the next program to see.
pub(super) fn become_program(
    image: BorrowedFd<'_>,
    state: &OwnedFd,
    descriptors: &[RawFd],
    reason: Option<&str>,
) -> io::Error {
    let become_it = || -> io::Result<std::convert::Infallible> {
        _ = SigSet::all().thread_block();
        let reason = reason.map(|reason| os::create_state(reason.as_bytes())).transpose()?;
        // Whatever else is open, inherited from whoever has started this process, is for neither.
        os::close_others_on_exec()?;
        for number in descriptors {
            os::keep_number_on_exec(*number)?;
        }
        os::keep_number_on_exec(state.as_raw_fd())?;
        if let Some(reason) = &reason {
            os::keep_number_on_exec(reason.as_raw_fd())?;
        }
        let mark = boot::succession_mark(state, reason.as_ref());
        let arguments: Vec<_> = std::env::args_os().map(|argument| c_string(&argument)).collect::<io::Result<_>>()?;
        let variables = std::env::vars_os().filter(|(name, _)| name != boot::MARK).map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(&name)
        });
        let variables: Vec<_> = variables.chain([c_string(&mark)]).collect::<io::Result<_>>()?;
        let path = c_string(format!("/proc/self/fd/{}", image.as_raw_fd()).as_ref())?;
        Ok(nix::unistd::execve(&path, &arguments, &variables)?)
    };
    match become_it() {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

/// Gives everything back to the program that was, which goes on as if nothing had been tried. If this is that one, or it cannot be run, the
/// cluster is at its end: the workers notice, and drain. Never returns.
pub(crate) fn go_back(succession: &Succession, why: &str) -> ! {
    let failure = match (&succession.state, &succession.reason) {
        (Some(state), None) => become_origin(state, why),
        (_, Some(reason)) => {
            let reason = os::read_state(reason).unwrap_or_default();
            format!("after an upgrade that was abandoned ({})", String::from_utf8_lossy(&reason))
        }
        (None, None) => "it has been taken over".to_owned(),
    };
    say(format_args!("the primary cannot go on: {why}; nor as the program that was: {failure}. The workers drain"));
    std::process::exit(exit_code::CONFIG.into())
}

/// Returns only if it cannot be, with the reason.
fn become_origin(state: &OwnedFd, why: &str) -> String {
    let become_it = || -> Result<io::Error, String> {
        let legacy = Legacy::read(state)?;
        let origin = os::adopt_inherited(legacy.origin).map_err(|error| error.to_string())?;
        Ok(become_program(origin.as_fd(), state, &legacy.descriptors(), Some(why)))
    };
    become_it().map_or_else(|text| text, |error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_layout_or_codec_begins_with_is_refused_with_the_remedy() {
        assert_eq!(check_head(HEAD), Ok(()));
        let error = check_head(HEAD + 1).unwrap_err();
        let told = format!("this one writes {}: its version of cluster is another; stop the cluster", LAYOUT + 1);
        assert!(error.contains(&told), "{error}");
        let error = check_head(HEAD ^ u32::from(codec::MARKS) << CODEC).unwrap_err();
        let (its, ours) = (codec::feature(codec::MARK), codec::feature(!codec::MARK));
        let told =
            format!("it is built with cluster's feature `{its}`, and this one with `{ours}`; build it with the same");
        assert!(its != ours && error.starts_with(&told), "{error}");
    }

    mod fuzz {
        use super::*;
        use crate::Restart;
        use crate::fuzz::{Random, fuzz};
        use crate::ipc::{Lane, NoMessages};
        use crate::listen::inherited::InheritedSockets;
        use crate::moment::Moment;
        use crate::supervisor::{self, Supervisor};

        /// What another program has left, or something like it: a state that is the same when it is left again, or an error.
        #[test]
        fn state() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            let ports = Ports::new(3, Dispatch::Balanced, InheritedSockets::default(), 1024).unwrap();
            let lane: Lane<NoMessages, NoMessages> = Lane::new(1 << 20, Default::default());
            let suspended = runtime.block_on(lane.suspend(Duration::from_secs(60))).unwrap().0;
            fuzz("primary::legacy::tests::fuzz::state", |random| {
                let mut bytes = os::read_state(&legacy(random, &ports, &suspended).write().unwrap()).unwrap();
                if random.once_in(10) {
                    let size = random.below(200);
                    bytes.truncate(4);
                    bytes.extend(random.bytes(size));
                }
                random.damage(&mut bytes);
                let Ok(read) = Legacy::read(&os::create_state(&bytes).unwrap()) else { return };
                let outcome = read.check::<NoMessages, NoMessages>(&Dispatch::Balanced);
                assert!(outcome.is_ok_and(|()| true) || !read.descriptors().is_empty());
                let again = os::read_state(&read.write().unwrap()).unwrap();
                assert!(
                    again
                        == os::read_state(&Legacy::read(&os::create_state(&again).unwrap()).unwrap().write().unwrap())
                            .unwrap()
                );
            });
        }

        fn legacy(random: &mut Random, ports: &Ports, suspended: &Suspended) -> Legacy {
            let (ports, fds) = ports.describe();
            let member = |number: u64| MemberState {
                worker: WorkerId::new(number),
                slot: number as usize,
                generation: 1,
                pid: 1000,
                control: 7,
                lane: match number {
                    0 => LaneState::Untouched,
                    1 => LaneState::Kept(8, Some(suspended.clone())),
                    _ => LaneState::Suspended(Some(9), suspended.clone()),
                },
                max_message: 1 << 20,
                output: Some([10, 11]),
                log: Some(b"/tmp/log".to_vec()),
                ports: BTreeSet::from([PortId(1)]),
                peers: BTreeSet::from([WorkerId::new(2)]),
                drains_last: false,
            };
            let members = (0..random.below(5) as u64).map(member).collect();
            Legacy::new(
                (Schema::of::<NoMessages>(), Schema::of::<NoMessages>()),
                "/bin/true".into(),
                3,
                memory(random),
                Duration::from_millis(7),
                (ports, fds.iter().map(|fd| fd.as_raw_fd()).collect()),
                members,
                Vec::new(),
                vec![(1, 12)],
                random.once_in(2).then(|| Bytes::from_static(b"what the user carries over")),
                Vec::new(),
                Tickets::default(),
                13,
            )
        }

        /// Of a supervisor that has some workers in several states.
        fn memory(random: &mut Random) -> Memory {
            let second = Duration::from_secs(1);
            let settings = supervisor::Settings {
                slots: 3,
                restart: Restart::Always,
                start_timeout: second,
                grace: second,
                drain_delay: second,
                surge: 1,
                max_age: None,
            };
            let mut supervisor = Supervisor::new(settings);
            let mut actions = Vec::new();
            supervisor.step(Moment::from_nanos(1), supervisor::Event::Start, &mut actions);
            for number in 1..=random.below(4) as u64 {
                let ready = supervisor::Event::Ready(WorkerId::new(number));
                supervisor.step(Moment::from_nanos(1 + number), ready, &mut actions);
            }
            supervisor.memory().clone()
        }
    }
}
