//! What workers run in: checks what the user's [`Setup`] says, and makes it so for each spawn.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource as Kind, getrlimit};
use nix::unistd::{Gid, Group, Pid, Uid, User, getegid, geteuid, getgrouplist, pipe2};

use super::function::panic_text;
use super::logs::LogFile;
use super::output::Printers;
use crate::aside::Aside;
use crate::boot::{self, Identity};
use crate::config::ConfigError;
use crate::listen::Endpoint;
use crate::listen::privilege::{self, NamedPorts};
use crate::os::{self, Actor, Change};
use crate::setup::{Affinity, Output, Resource, Setup, Spawn, Surroundings};

/// Where all workers are spawned.
pub(super) struct Workplace {
    setup: Setup,
    /// The cores that this process may use.
    cores: Vec<usize>,
    owner: Option<Owner>,
    named: NamedPorts,
    /// Started with the first worker that needs them.
    printers: Option<Printers>,
}

/// Where one worker is about to be spawned.
pub(super) struct Place<'a> {
    identity: Identity,
    /// Without a value, one that is taken away.
    env: Vec<(OsString, Option<OsString>)>,
    changes: Arc<[Change]>,
    output: Destination<'a>,
    owner: Option<&'a Owner>,
}

enum Destination<'a> {
    Inherited,
    /// The primary's ends of the pipes.
    Printed(&'a Printers, [OwnedFd; 2], Option<[OwnedFd; 2]>),
    Written(LogFile, File),
}

/// As whom workers run.
struct Owner {
    name: String,
    user: Option<Uid>,
    group: Gid,
    /// With the group itself.
    groups: Vec<Gid>,
    /// Where the user database has an entry.
    entry: Option<User>,
}

impl Workplace {
    /// Checks everything that can be known before anything is spawned.
    pub(super) fn new(setup: &Setup) -> Result<Self, ConfigError> {
        let owner = Owner::find(setup.user.as_deref(), setup.group.as_deref())?;
        let named =
            NamedPorts::find(&setup.ports).map_err(|error| ConfigError(format!("ports of the setup: {error}")))?;
        let workplace = Self { setup: setup.clone(), cores: allowed_cores()?, owner, named, printers: None };
        workplace.changes(&setup.surroundings, 0)?;
        check_environment(&setup.surroundings)?;
        check_output(&setup.surroundings.output)?;
        Ok(workplace)
    }

    /// Makes the place for one worker, after the user's closure has had its say.
    pub(super) fn prepare(&mut self, identity: Identity) -> io::Result<Place<'_>> {
        let mut spawn = Spawn { identity, surroundings: self.setup.surroundings.clone() };
        if let Some(each) = &self.setup.each {
            catch_unwind(AssertUnwindSafe(|| each.call(&mut spawn))).map_err(|panic| {
                let text = panic_text(panic.as_ref());
                io::Error::other(format!("the closure given to Setup::each panicked: {text}"))
            })?;
        }
        let surroundings = spawn.surroundings;
        let changes = self.changes(&surroundings, identity.slot).map_err(io::Error::other)?;
        check_environment(&surroundings).map_err(io::Error::other)?;
        if surroundings.output == Output::Prefixed && self.printers.is_none() {
            self.printers = Some(Printers::start()?);
        }
        let output = match (surroundings.output, &self.printers) {
            (Output::Prefixed, Some(printers)) => {
                let [(out, their_out), (err, their_err)] = [pipe2(OFlag::O_CLOEXEC)?, pipe2(OFlag::O_CLOEXEC)?];
                Destination::Printed(printers, [out, err], Some([their_out, their_err]))
            }
            (Output::File(path), _) => {
                let log = LogFile::of(&path, identity);
                let file = log.open(self.actor().as_ref())?;
                Destination::Written(log, file)
            }
            (Output::Inherit | Output::Prefixed, _) => Destination::Inherited,
        };
        let env = self.own_variables().chain(surroundings.env.into_iter().map(|(key, value)| (key, Some(value))));
        Ok(Place { identity, env: env.collect(), changes: changes.into(), output, owner: self.owner.as_ref() })
    }

    /// With whose rights the files of workers are opened, if not with this process's.
    pub(super) fn actor(&self) -> Option<Actor> {
        let Owner { user: Some(user), group, groups, .. } = self.dropped()? else { return None };
        Some(Actor { user: *user, group: *group, groups: groups.clone() })
    }

    /// Whether a port that is not there yet may be bound for a worker; `is_first`: no worker has been ready yet.
    ///
    /// # Errors
    /// `PermissionDenied`, with the remedy.
    pub(super) fn check_port(&self, endpoint: &Endpoint, is_first: bool) -> io::Result<()> {
        match self.dropped() {
            Some(Owner { name, .. }) if !is_first => privilege::check(endpoint, &self.named, name),
            _ => Ok(()),
        }
    }

    /// The user to which workers give up this process's privileges, if they do.
    fn dropped(&self) -> Option<&Owner> {
        self.owner.as_ref().filter(|owner| owner.user.is_some_and(|user| !user.is_root()))
    }

    /// The variables that say who one is; those that are not known are this process's no longer.
    fn own_variables(&self) -> impl Iterator<Item = (OsString, Option<OsString>)> {
        let variables = self.dropped().map(|owner| {
            let entry = owner.entry.as_ref();
            let name = entry.map(|entry| OsString::from(&entry.name));
            [
                ("HOME", entry.map(|entry| entry.dir.clone().into())),
                ("SHELL", entry.map(|entry| entry.shell.clone().into())),
                ("USER", name.clone()),
                ("LOGNAME", name),
            ]
        });
        variables.into_iter().flatten().map(|(key, value)| (key.into(), value))
    }

    /// Prints on what comes from the pipes of a worker that the program before has spawned.
    pub(super) fn follow_output(&mut self, who: Identity, pid: Pid, pipes: &[OwnedFd; 2]) -> io::Result<()> {
        let printers = match self.printers.take() {
            Some(printers) => printers,
            None => Printers::start()?,
        };
        let [out, err] = pipes;
        printers.follow(who, pid, [out.try_clone()?, err.try_clone()?]);
        self.printers = Some(printers);
        Ok(())
    }

    /// Waits until everything is written that workers have printed, but not for longer than `time`.
    pub(super) fn finish_output(&mut self, time: Duration) {
        if let Some(printers) = self.printers.take() {
            printers.finish(time);
        }
    }

    /// What the child is to change about itself. The order matters: what needs a privilege comes before it is given up, and the limits
    /// after the last file that is opened.
    fn changes(&self, surroundings: &Surroundings, slot: usize) -> Result<Vec<Change>, ConfigError> {
        let is_dropped = self.dropped().is_some();
        // A session only where the user is another: the scheduler gives each session a share of its own, and messages between processes
        // are slower then.
        let mut changes = vec![if is_dropped { Change::Session } else { Change::ProcessGroup }];
        if let Some(score) = surroundings.oom_score {
            changes.push(oom_score(score)?);
        }
        for (resource, soft, hard) in &surroundings.limits {
            changes.push(limit(*resource, *soft, *hard)?);
        }
        if let Some(nice) = surroundings.nice {
            changes.push(self::nice(nice)?);
        }
        if let Some(affinity) = &surroundings.affinity {
            changes.push(Change::Cores(self.cores_of(affinity, slot)?));
        }
        let no_new_privs = self.setup.no_new_privs.unwrap_or(is_dropped);
        if is_dropped {
            changes.push(Change::BoundingSet { needless: no_new_privs });
        }
        if let Some(Owner { user, group, groups, .. }) = &self.owner {
            changes.extend([Change::Groups(groups.clone()), Change::Group(*group)]);
            changes.extend(user.map(Change::User));
        }
        if is_dropped {
            changes.push(Change::Capabilities);
        }
        if let Some(cwd) = &surroundings.cwd {
            changes.push(directory(cwd)?);
        }
        if no_new_privs {
            changes.push(Change::NoNewPrivileges);
        }
        Ok(changes)
    }

    fn cores_of(&self, affinity: &Affinity, slot: usize) -> Result<CpuSet, ConfigError> {
        let wanted = match affinity {
            Affinity::Auto => vec![self.cores[slot % self.cores.len()]],
            Affinity::Cores(cores) => cores.clone(),
        };
        if wanted.is_empty() {
            return refuse("affinity names no core; name some, or leave it out for all");
        }
        let mut set = CpuSet::new();
        for core in wanted {
            if !self.cores.contains(&core) || set.set(core).is_err() {
                let allowed = &self.cores;
                return refuse(format!(
                    "affinity names core {core}, which this process may not use; name some of {allowed:?}, or set it to Affinity::Auto"
                ));
            }
        }
        Ok(set)
    }
}

impl Place<'_> {
    /// Lets the child of `command` find all of it.
    pub(super) fn furnish(&mut self, command: &mut Command) -> io::Result<()> {
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        match &mut self.output {
            Destination::Inherited => {}
            Destination::Printed(_, _, theirs) => {
                if let Some([stdout, stderr]) = theirs.take() {
                    command.stdout(stdout).stderr(stderr);
                }
            }
            Destination::Written(_, file) => {
                command.stdout(file.try_clone()?).stderr(file.try_clone()?);
            }
        }
        if !self.changes.is_empty() {
            os::change_child(command, Arc::clone(&self.changes));
        }
        Ok(())
    }

    /// What a spawn failed at, in words.
    pub(super) fn explain(&self, error: io::Error) -> io::Error {
        if let Some((index, error)) = os::refused_change(&error) {
            let what = self.changes.get(index).map_or_else(String::new, describe);
            return io::Error::new(error.kind(), format!("while setting up its {what}: {error}"));
        }
        match self.owner {
            Some(Owner { name, .. }) if error.kind() == io::ErrorKind::PermissionDenied => io::Error::new(
                error.kind(),
                format!("{error}: may {name} execute the program's file? If not: chmod a+x"),
            ),
            _ => error,
        }
    }

    /// The worker `pid` has taken its place. Returns where it writes, and the pipes that are followed once more, for the program
    /// that this process may become.
    pub(super) fn take(self, pid: Pid) -> io::Result<(Option<LogFile>, Option<[OwnedFd; 2]>)> {
        match self.output {
            Destination::Inherited => Ok((None, None)),
            Destination::Printed(printers, ours, _) => {
                let [out, err] = &ours;
                let again = [out.try_clone()?, err.try_clone()?];
                printers.follow(self.identity, pid, ours);
                Ok((None, Some(again)))
            }
            Destination::Written(log, _) => Ok((Some(log), None)),
        }
    }
}

impl Owner {
    /// `None` if nothing is to change.
    fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, ConfigError> {
        let found_user = user.map(find_user).transpose()?;
        let group = group.map(find_group).transpose()?;
        let (uid, own_group) = match &found_user {
            Some((uid, own)) => (Some(*uid), own.as_ref()),
            None => (None, None),
        };
        let (gid, groups) = match (group, own_group) {
            (Some(gid), _) => (gid, vec![gid]),
            (None, Some(own)) => (own.gid, supplementary(own)?),
            (None, None) => match user {
                Some(user) => {
                    return refuse(format!("user {user:?} has no name here, so no group; set a group, too"));
                }
                None => return Ok(None),
            },
        };
        let name = user.map_or_else(|| format!("group {gid}"), |user| format!("user {user}"));
        if !geteuid().is_root() {
            if uid.is_none_or(|uid| uid == geteuid()) && gid == getegid() {
                return Ok(None);
            }
            return refuse(format!(
                "workers are to run as {name}, but only root may choose; start the program as root, or leave the user out of the \
                 setup and start it as that user"
            ));
        }
        let entry = found_user.and_then(|(_, entry)| entry);
        Ok(Some(Self { name, user: uid, group: gid, groups, entry }))
    }
}

/// Its number, and its entry in the user database, if it has one.
fn find_user(text: &str) -> Result<(Uid, Option<User>), ConfigError> {
    let unreadable =
        |error| ConfigError(format!("user {text:?} cannot be looked up ({error}); set its number and a group"));
    let number = text.parse().ok().map(Uid::from_raw);
    if let Some(user) = User::from_name(text).map_err(unreadable)? {
        return Ok((user.uid, Some(user)));
    }
    match number {
        Some(uid) => Ok((uid, User::from_uid(uid).map_err(unreadable)?)),
        None => refuse(format!("user {text:?} does not exist; set one of those that `getent passwd` lists, or add it")),
    }
}

fn find_group(text: &str) -> Result<Gid, ConfigError> {
    let unreadable = |error| ConfigError(format!("group {text:?} cannot be looked up ({error}); set its number"));
    match (Group::from_name(text).map_err(unreadable)?, text.parse()) {
        (Some(group), _) => Ok(group.gid),
        (None, Ok(number)) => Ok(Gid::from_raw(number)),
        (None, Err(_)) => {
            refuse(format!("group {text:?} does not exist; set one of those that `getent group` lists, or add it"))
        }
    }
}

fn supplementary(user: &User) -> Result<Vec<Gid>, ConfigError> {
    let name = CString::new(user.name.as_str()).map_err(|error| ConfigError(error.to_string()))?;
    getgrouplist(&name, user.gid).map_err(|error| {
        ConfigError(format!("the groups of user {:?} cannot be looked up ({error}); set a group", user.name))
    })
}

fn allowed_cores() -> Result<Vec<usize>, ConfigError> {
    let set = sched_getaffinity(Pid::from_raw(0))
        .map_err(|error| ConfigError(format!("cannot tell which cores this process may use: {error}")))?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

fn oom_score(score: i32) -> Result<Change, ConfigError> {
    match score {
        -1000..=1000 => Ok(Change::OomScore(score.to_string())),
        _ => refuse(format!("oom_score is {score}; set -1000 to 1000")),
    }
}

fn nice(nice: i32) -> Result<Change, ConfigError> {
    match nice {
        -20..=19 => Ok(Change::Nice(nice)),
        _ => refuse(format!("nice is {nice}; set -20 to 19")),
    }
}

fn limit(resource: Resource, soft: u64, hard: u64) -> Result<Change, ConfigError> {
    if soft > hard {
        return refuse(format!(
            "the soft limit {soft} of {resource:?} is above the hard one {hard}; set soft at most to hard"
        ));
    }
    let kind = kind_of(resource);
    let most = getrlimit(kind).map_or(u64::MAX, |(_, most)| most);
    if hard > most && !geteuid().is_root() {
        return refuse(format!(
            "the hard limit {hard} of {resource:?} is above this process's {most}; set {most} at most, or start the program as root"
        ));
    }
    Ok(Change::Limit(kind, soft, hard))
}

const fn kind_of(resource: Resource) -> Kind {
    match resource {
        Resource::AddressSpace => Kind::RLIMIT_AS,
        Resource::CoreFile => Kind::RLIMIT_CORE,
        Resource::CpuTime => Kind::RLIMIT_CPU,
        Resource::Data => Kind::RLIMIT_DATA,
        Resource::FileSize => Kind::RLIMIT_FSIZE,
        Resource::Files => Kind::RLIMIT_NOFILE,
        Resource::LockedMemory => Kind::RLIMIT_MEMLOCK,
        Resource::Processes => Kind::RLIMIT_NPROC,
        Resource::Stack => Kind::RLIMIT_STACK,
    }
}

fn directory(path: &Path) -> Result<Change, ConfigError> {
    let unfit = |error: &dyn std::fmt::Display| {
        ConfigError(format!("cwd {} cannot be used ({error}); make it, or set another directory", path.display()))
    };
    let looked = path.to_owned();
    let found = PLACES.run(path, move || fs::metadata(looked));
    if !found.map_err(|error| unfit(&error))?.is_dir() {
        return Err(unfit(&"it is no directory"));
    }
    CString::new(path.as_os_str().as_bytes()).map(Change::Directory).map_err(|error| unfit(&error))
}

fn check_environment(surroundings: &Surroundings) -> Result<(), ConfigError> {
    for (key, value) in &surroundings.env {
        let name = key.as_bytes();
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.as_bytes().contains(&0) {
            return refuse(format!(
                "{key:?}={value:?} cannot stand in an environment; set a name without = and neither with a NUL"
            ));
        }
        if key == boot::MARK {
            return refuse(format!("{key:?} is this library's own mark of a worker; set another variable"));
        }
    }
    Ok(())
}

/// Whatever else the setup names.
static PLACES: Aside = Aside::new();

/// Only a first look: at each spawn it is opened, or that fails.
fn check_output(output: &Output) -> Result<(), ConfigError> {
    let Output::File(path) = output else { return Ok(()) };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let is_pattern = directory.as_os_str().as_bytes().contains(&b'{');
    let (looked, directory) = (path.to_owned(), directory.to_owned());
    let is_good = PLACES
        .run(path, move || Ok(!looked.is_dir() && (is_pattern || directory.is_dir())))
        .map_err(|error| ConfigError(format!("output cannot go to the file {path:?} ({error}); set another path")))?;
    if path.file_name().is_none() || !is_good {
        let path = path.display();
        return refuse(format!("output cannot go to the file {path:?}; make its directory, or set another path"));
    }
    Ok(())
}

fn describe(change: &Change) -> String {
    match change {
        Change::OomScore(score) => format!("OOM score {score}"),
        Change::Limit(resource, soft, hard) => format!("limit {resource:?} {soft}:{hard}"),
        Change::Nice(nice) => format!("nice value {nice}"),
        Change::Cores(_) => "cores".into(),
        Change::Directory(path) => format!("directory {}", path.to_string_lossy()),
        Change::Session => "session".into(),
        Change::ProcessGroup => "process group".into(),
        Change::BoundingSet { .. } => "capability bounding set".into(),
        Change::Capabilities => "capabilities".into(),
        Change::Groups(_) => "supplementary groups".into(),
        Change::Group(group) => format!("group {group}"),
        Change::User(user) => format!("user {user}"),
        Change::NoNewPrivileges => "no_new_privs".into(),
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}
