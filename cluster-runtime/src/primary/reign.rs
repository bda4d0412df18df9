//! Where a primary begins: a cluster is started, or one that runs is gone on with.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Notify, mpsc};

use super::care::Care;
use super::function::{self, Common, Notice};
use super::legacy::{Legacy, go_back};
use super::order::Reloads;
use super::ports::Ports;
use super::program::Program;
use super::roster::Roster;
use super::service::Service;
use super::shared::Leave;
use super::signals::Signals;
use super::spawn::Image;
use super::strangers::reap_strangers;
use super::tickets::Tickets;
use super::upgrade::{self, Adopted, Upgrade};
use super::workplace::Workplace;
use super::{Function, Happening, Shell, Stop};
use crate::boot::{self, Succession};
use crate::config::Settings;
use crate::control::Schema;
use crate::error::exit_code;
use crate::ipc::Message;
use crate::listen::inherited::InheritedSockets;
use crate::report::{Reporter, say};
use crate::run::PrimaryMain;
use crate::supervisor::Supervisor;
use crate::{metrics, os};

/// Happenings that may wait; more makes their senders wait.
const INBOX: usize = 256;
/// Rules a cluster from its first worker to its last, and returns the exit code. With a succession, it goes on with one that runs.
pub(crate) fn reign<P, Up, Down>(settings: Settings, function: P, succession: Option<Succession>) -> u8
where
    P: PrimaryMain<Up, Down>,
    Up: Message,
    Down: Message,
{
    match succession {
        None => {
            // While this is the only thread, because of the environment.
            let inherited = InheritedSockets::adopt().map_err(|error| format!("the primary cannot start: {error}"));
            let ruled = inherited.and_then(|inherited| rule(settings, Origin::Start(inherited), function));
            ruled.unwrap_or_else(|text| {
                say(text);
                exit_code::CONFIG
            })
        }
        Some(mut succession) => {
            boot::name_process();
            let ruled = catch_unwind(AssertUnwindSafe(|| rule(settings, Origin::Upgrade(&mut succession), function)));
            match ruled {
                Ok(Ok(code)) => code,
                Ok(Err(text)) => go_back(&succession, &text),
                Err(panic) if succession.state.is_none() => resume_unwind(panic),
                Err(panic) => go_back(&succession, &format!("it panicked: {}", function::panic_text(panic.as_ref()))),
            }
        }
    }
}

/// Where a cluster comes from.
enum Origin<'a> {
    Start(InheritedSockets),
    Upgrade(&'a mut Succession),
}

/// # Errors
/// Why it cannot be ruled; nothing has happened that the program before could not go on from.
fn rule<P, Up, Down>(settings: Settings, origin: Origin<'_>, function: P) -> Result<u8, String>
where
    P: PrimaryMain<Up, Down>,
    Up: Message,
    Down: Message,
{
    let workplace = Workplace::new(&settings.setup).map_err(|error| error.to_string())?;
    let failed = |error: io::Error| format!("the primary cannot start: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        // Signals first: from the first worker on there is something to stop.
        let signals = Signals::install().map_err(failed)?;
        os::keep_ended_children().map_err(failed)?;
        let most_sockets = raise_descriptor_limit() / 2;
        let (inbox_sender, inbox) = mpsc::channel(INBOX);
        let schemas = (Schema::of::<Up>(), Schema::of::<Down>());
        let stop = Arc::<Notify>::default();
        let reporter = Reporter::start(settings.quiet).map_err(failed)?;
        let image = Image::of_this_process().map_err(failed)?;
        let plan = Plan { settings, workplace, reporter, image, most_sockets, schemas, inbox: inbox_sender };
        let begin = |common| function::start(function, common);
        let shell = match origin {
            Origin::Start(inherited) => Shell::start(plan, inherited, Arc::clone(&stop), begin).map_err(failed)?,
            Origin::Upgrade(succession) => {
                let shell = Shell::adopt::<Up, Down>(plan, succession, Arc::clone(&stop), begin)?;
                // The program before has held them back. Whoever takes one has to be there to act on it.
                _ = Signals::release();
                shell
            }
        };
        let watched = Arc::clone(&shell.roster);
        tokio::spawn(reap_strangers(move |pid| watched.has(pid)));
        Ok(shell.run(signals, &stop, inbox).await)
    })
}

/// What a shell is made of, wherever the cluster comes from.
struct Plan {
    settings: Settings,
    workplace: Workplace,
    reporter: Reporter,
    image: Image,
    most_sockets: usize,
    schemas: (Schema, Schema),
    inbox: mpsc::Sender<Happening>,
}

/// Starts the user's thread.
trait Begin: FnOnce(Common) -> io::Result<mpsc::UnboundedSender<Notice>> {}

impl<F: FnOnce(Common) -> io::Result<mpsc::UnboundedSender<Notice>>> Begin for F {}

impl Shell {
    /// A cluster that is still to be started.
    fn start(plan: Plan, inherited: InheritedSockets, stop: Arc<Notify>, begin: impl Begin) -> io::Result<Self> {
        let program = Program::of_this_process()?;
        let image = Image::of_this_process()?;
        let Settings { workers, ref dispatch, .. } = plan.settings;
        let ports = Ports::new(workers, dispatch.clone(), inherited, plan.most_sockets)?;
        let supervisor = Supervisor::new(plan.settings.supervision());
        let (roster, leave) = (Arc::new(Roster::new(*ports.board())), Arc::<Leave>::default());
        let shell = plan.inbox.clone();
        let max_message = plan.settings.max_message as usize;
        let common =
            Common { roster: Arc::clone(&roster), stop, shell, leave: Arc::clone(&leave), carried: None, max_message };
        let notices = begin(common)?;
        Ok(Self::of(plan, supervisor, ports, program, BTreeMap::from([(1, image)]), roster, leave, notices))
    }

    /// A cluster that runs, and whose primary this process was with another program.
    ///
    /// # Errors
    /// Why it cannot be gone on with; it is as it was.
    fn adopt<Up: Message, Down: Message>(
        mut plan: Plan,
        succession: &mut Succession,
        stop: Arc<Notify>,
        begin: impl Begin,
    ) -> Result<Self, String> {
        let state = succession.state.as_ref().ok_or("nothing is left")?;
        let mut legacy = Legacy::read(state)?;
        legacy.check::<Up, Down>(&plan.settings.dispatch)?;
        let descriptors = legacy.descriptors();
        let failed = |error: io::Error| format!("what the primary has left cannot be taken over: {error}");
        let ports = legacy.adopt_ports(plan.settings.dispatch.clone(), plan.most_sockets).map_err(failed)?;
        let (roster, leave) = (Arc::new(Roster::new(*ports.board())), Arc::<Leave>::default());
        let take_over = || -> io::Result<_> {
            let address = |port| ports.address(port);
            let mut adopted = upgrade::adopt(succession, legacy, plan.settings.supervision(), address)?;
            for member in adopted.fleet.values() {
                if let Some(pipes) = &member.output {
                    plan.workplace.follow_output(member.identity, member.pid, pipes)?;
                }
            }
            let (shell, carried) = (plan.inbox.clone(), adopted.carried.take());
            let max_message = plan.settings.max_message as usize;
            let common =
                Common { roster: Arc::clone(&roster), stop, shell, leave: Arc::clone(&leave), carried, max_message };
            // The last that can fail: from here on the user's code runs.
            Ok((adopted, begin(common)?))
        };
        let (adopted, notices) = match take_over() {
            Ok(taken) => taken,
            Err(error) => {
                // The files of its sockets are not ours to remove.
                ports.leave();
                return Err(failed(error));
            }
        };
        // From here on nothing can be given back.
        (succession.state, succession.reason) = (None, None);
        upgrade::close_originals(&descriptors);
        let Adopted { supervisor, stalled, fleet, images, program, tickets, notices: unsent, continued, carried: _ } =
            adopted;
        let shell = Self::of(plan, supervisor, ports, Program::at(program), images, roster, leave, notices);
        // Nothing is upgraded before its start is over.
        let mut shell = Self { stalled, fleet, tickets, unsent, has_served: true, ..shell };
        shell.go_on(continued);
        Ok(shell)
    }

    #[expect(clippy::too_many_arguments, reason = "it is all there is")]
    fn of(
        plan: Plan,
        supervisor: Supervisor,
        ports: Ports,
        program: Program,
        images: BTreeMap<u64, Image>,
        roster: Arc<Roster>,
        leave: Arc<Leave>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        let Plan { settings, workplace, reporter, image, most_sockets: _, schemas, inbox } = plan;
        metrics::enter(*ports.board(), metrics::Place::Primary);
        Self {
            settings,
            reporter,
            service: Service::of_this_process(),
            supervisor,
            stalled: Duration::ZERO,
            awake: Instant::now(),
            fleet: BTreeMap::new(),
            ports,
            program,
            image,
            images,
            workplace,
            care: Care::default(),
            tickets: Tickets::default(),
            reloads: Reloads::default(),
            forks: Vec::new(),
            complaints: BTreeMap::new(),
            schemas,
            roster,
            notices,
            unsent: Vec::new(),
            inbox,
            function: Function::Running,
            stop: Stop::No,
            is_interrupted: false,
            upgrade: Upgrade::No,
            leave,
            late: Vec::new(),
            has_served: false,
            is_stop_announced: false,
        }
    }
}

/// How many descriptors this process may have.
pub(super) fn descriptor_limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// What should be left when something needs many descriptors: for spawns, programs, and the user's own.
pub(super) const DESCRIPTORS_TO_SPARE: usize = 32;

/// Takes as many descriptors as are allowed: several for each worker and one for each shard add up. Returns how many.
fn raise_descriptor_limit() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
    usize::try_from(raised).unwrap_or(usize::MAX)
}
