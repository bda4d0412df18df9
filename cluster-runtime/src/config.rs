//! What a user can set, where it comes from, and what is refused.
//!
//! Order of precedence: environment, then attribute or [`Config`], then default. Everything is checked once, in the
//! primary, before anything is spawned.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::listen::{Dispatch, Sticky};
use crate::supervisor::{self, Restart};

/// The settings of a cluster: what `#[cluster::main(…)]` says, as plain code.
///
/// ```no_run
/// use std::time::Duration;
/// use cluster::{Config, Restart, Workers};
///
/// async fn app() -> cluster::Result {
///     cluster::listen("127.0.0.1:3000").await?;
///     cluster::worker().shutdown().await;
///     Ok(())
/// }
///
/// fn main() -> cluster::Result {
///     let config = Config::new().workers(Workers::Auto).restart(Restart::Always).grace(Duration::from_secs(30));
///     cluster::run(config, app)
/// }
/// ```
///
/// Setters only record; values are checked when [`run`](crate::run) starts the primary, and a wrong one ends the program
/// with exit code 2 and a message that names the remedy. Each setting has an environment variable that wins over it.
#[derive(Clone, Debug)]
#[must_use = "a Config does nothing until it is given to cluster::run"]
pub struct Config<P = NoPrimary> {
    workers: Workers,
    threads: usize,
    dispatch: Dispatch,
    restart: Restart,
    start_timeout: Duration,
    grace: Duration,
    quiet: bool,
    primary: P,
}

/// Stands in a [`Config`] for "no primary function was given".
#[derive(Clone, Copy, Debug)]
pub struct NoPrimary;

/// How many workers a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// One for each core that this process may use: the affinity mask and the cgroup's CPU quota are respected, the quota
    /// rounded down, never less than one.
    #[default]
    Auto,
    /// Exactly this many, from 1 to 1024.
    Count(usize),
}

impl From<usize> for Workers {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// The defaults: a worker per core, one thread each, connections balanced, restarted always, 30 s to become ready, 30 s to drain.
    pub const fn new() -> Self {
        Self {
            workers: Workers::Auto,
            threads: 1,
            dispatch: Dispatch::Balanced,
            restart: Restart::Always,
            start_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(30),
            quiet: false,
            primary: NoPrimary,
        }
    }
}

impl<P> Config<P> {
    /// How many workers: a number or [`Workers::Auto`]. Environment: `CLUSTER_WORKERS` (a number or `auto`), and where that
    /// is not set, `WEB_CONCURRENCY`.
    pub fn workers(mut self, workers: impl Into<Workers>) -> Self {
        self.workers = workers.into();
        self
    }

    /// Threads of each worker's runtime, 1 to 1024; with 1 it is tokio's current-thread runtime. Environment:
    /// `CLUSTER_THREADS`.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How new connections are spread over the workers: a [`Dispatch`], a [`Sticky`], or a [`Placement`](crate::Placement) of
    /// your own. Environment: `CLUSTER_DISPATCH` (`balanced`, `kernel`, `round-robin`, `sticky`).
    pub fn dispatch(mut self, dispatch: impl Into<Dispatch>) -> Self {
        self.dispatch = dispatch.into();
        self
    }

    /// Which ends of a worker are followed by a replacement. Environment: `CLUSTER_RESTART` (`always`, `on-failure`,
    /// `never`).
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long a worker may take from spawn to ready; then it is killed and counts as failed. More than zero, at most a
    /// day. Environment: `CLUSTER_START_TIMEOUT` (such as `30s`).
    pub fn start_timeout(mut self, start_timeout: Duration) -> Self {
        self.start_timeout = start_timeout;
        self
    }

    /// The longest that a stop takes: what a worker has not finished by then is cut and the worker killed. Zero kills at
    /// once; at most a day. Environment: `CLUSTER_GRACE` (such as `30s`).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Whether the primary keeps quiet on stderr while no `tracing` subscriber is installed. Environment: `CLUSTER_QUIET`
    /// (`true`, `false`).
    pub fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// The function that runs in the primary, on a thread and a runtime of its own, and gets the cluster's
    /// [events](crate::Event).
    ///
    /// When it returns an error or panics, the cluster stops gracefully with exit code 1 (a program built with `panic = "abort"`
    /// ends at once, and the workers drain without it). When it returns `Ok` early, the cluster goes on, and what workers send is
    /// dropped from then on. It is also the place to install a `tracing` subscriber for the primary, as `main` runs in the workers
    /// only.
    pub fn primary<F>(self, primary: F) -> Config<F> {
        let Self { workers, threads, dispatch, restart, start_timeout, grace, quiet, primary: _ } = self;
        Config { workers, threads, dispatch, restart, start_timeout, grace, quiet, primary }
    }

    /// The settings that hold, and the primary function.
    pub(crate) fn resolve(self) -> Result<(Settings, P), ConfigError> {
        let settings = self.settings(|name| std::env::var_os(name))?;
        Ok((settings, self.primary))
    }

    fn settings(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, ConfigError> {
        let read = |key| Variable::read(key, &variable);
        let workers = match read("CLUSTER_WORKERS")?.or(read("WEB_CONCURRENCY")?) {
            Some(workers) => workers.workers()?,
            None => self.workers,
        };
        let settings = Settings {
            workers: match workers {
                Workers::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
                Workers::Count(count) => count,
            },
            threads: read("CLUSTER_THREADS")?.map_or(Ok(self.threads), |v| v.number())?,
            dispatch: read("CLUSTER_DISPATCH")?.map_or_else(|| Ok(self.dispatch.clone()), |v| v.dispatch())?,
            restart: read("CLUSTER_RESTART")?.map_or(Ok(self.restart), |v| v.restart())?,
            start_timeout: read("CLUSTER_START_TIMEOUT")?.map_or(Ok(self.start_timeout), |v| {
                v.duration(|time| !time.is_zero(), "more than 0s and at most 24h")
            })?,
            grace: read("CLUSTER_GRACE")?.map_or(Ok(self.grace), |v| v.duration(|_| true, "at most 24h"))?,
            quiet: read("CLUSTER_QUIET")?.map_or(Ok(self.quiet), |v| v.switch())?,
        };
        settings.check()
    }
}

/// What holds for this cluster, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) threads: usize,
    pub(crate) dispatch: Dispatch,
    pub(crate) restart: Restart,
    pub(crate) start_timeout: Duration,
    pub(crate) grace: Duration,
    pub(crate) quiet: bool,
}

/// More workers or threads than anyone means; a typing error is more likely.
const MOST: usize = 1024;
/// The longest time that any setting may name.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Settings {
    /// What the supervisor has to know of them.
    pub(crate) const fn supervision(&self) -> supervisor::Settings {
        let Self { workers, restart, start_timeout, grace, .. } = *self;
        supervisor::Settings { slots: workers, restart, start_timeout, grace }
    }

    fn check(self) -> Result<Self, ConfigError> {
        let Self { workers, threads, start_timeout, grace, .. } = self;
        if !(1..=MOST).contains(&workers) {
            return Err(ConfigError(format!("workers is {workers}; set 1 to {MOST}, or \"auto\" for one per core")));
        }
        if !(1..=MOST).contains(&threads) {
            return Err(ConfigError(format!("threads is {threads}; set 1 to {MOST}")));
        }
        if start_timeout.is_zero() || start_timeout > LONGEST {
            return Err(ConfigError(format!("start_timeout is {start_timeout:?}; set more than 0s and at most 24h")));
        }
        if grace > LONGEST {
            return Err(ConfigError(format!("grace is {grace:?}; set at most 24h")));
        }
        Ok(self)
    }
}

/// A setting that cannot be; the text names the remedy.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(String);

/// An environment variable and its text, to be read as what the setting needs.
struct Variable {
    name: &'static str,
    text: String,
}

impl Variable {
    /// A variable that is set to nothing counts as not set, as shells and container files make it easy to do.
    fn read(name: &'static str, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, ConfigError> {
        match variable(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) if text.trim().is_empty() => Ok(None),
            Some(Ok(text)) => Ok(Some(Self { name, text: text.trim().to_owned() })),
            Some(Err(raw)) => Err(ConfigError(format!("{name} is not text: {raw:?}; set it anew or unset it"))),
        }
    }

    fn workers(&self) -> Result<Workers, ConfigError> {
        match self.text.as_str() {
            "auto" => Ok(Workers::Auto),
            _ => self.count("a number from 1 to 1024, or auto").map(Workers::Count),
        }
    }

    fn number(&self) -> Result<usize, ConfigError> {
        self.count("a number from 1 to 1024")
    }

    fn count(&self, wanted: &str) -> Result<usize, ConfigError> {
        let count = self.text.parse().ok().filter(|count| (1..=MOST).contains(count));
        count.ok_or_else(|| self.refuse(wanted))
    }

    fn dispatch(&self) -> Result<Dispatch, ConfigError> {
        match self.text.as_str() {
            "balanced" => Ok(Dispatch::Balanced),
            "kernel" => Ok(Dispatch::Kernel),
            "round-robin" => Ok(Dispatch::RoundRobin),
            "sticky" => Ok(Dispatch::Sticky(Sticky::address())),
            _ => Err(self.refuse("balanced, kernel, round-robin or sticky")),
        }
    }

    fn restart(&self) -> Result<Restart, ConfigError> {
        match self.text.as_str() {
            "always" => Ok(Restart::Always),
            "on-failure" => Ok(Restart::OnFailure),
            "never" => Ok(Restart::Never),
            _ => Err(self.refuse("always, on-failure or never")),
        }
    }

    fn duration(&self, is_allowed: impl Fn(Duration) -> bool, wanted: &str) -> Result<Duration, ConfigError> {
        match humantime::parse_duration(&self.text) {
            Ok(time) if is_allowed(time) && time <= LONGEST => Ok(time),
            Ok(_) => Err(self.refuse(wanted)),
            Err(_) => Err(self.refuse("a time with its unit, such as 30s or 500ms")),
        }
    }

    fn switch(&self) -> Result<bool, ConfigError> {
        match self.text.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.refuse("true or false")),
        }
    }

    fn refuse(&self, wanted: &str) -> ConfigError {
        ConfigError(format!("{}={:?} cannot be used; set it to {wanted}, or unset it", self.name, self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(config: &Config, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        config.settings(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_environment_wins_over_the_code() {
        let config = Config::new().workers(3).threads(2).restart(Restart::Never);
        let plain = with(&config, &[]).unwrap();
        assert_eq!((plain.workers, plain.threads, plain.restart), (3, 2, Restart::Never));
        let set = [
            ("CLUSTER_WORKERS", "5"),
            ("CLUSTER_THREADS", "7"),
            ("CLUSTER_DISPATCH", "round-robin"),
            ("CLUSTER_RESTART", "on-failure"),
            ("CLUSTER_START_TIMEOUT", "500ms"),
            ("CLUSTER_GRACE", "1m 30s"),
            ("CLUSTER_QUIET", "true"),
        ];
        let expected = Settings {
            workers: 5,
            threads: 7,
            dispatch: Dispatch::RoundRobin,
            restart: Restart::OnFailure,
            start_timeout: Duration::from_millis(500),
            grace: Duration::from_secs(90),
            quiet: true,
        };
        assert_eq!(with(&config, &set), Ok(expected));
    }

    #[test]
    fn web_concurrency_counts_only_where_cluster_workers_is_not_set() {
        let config = Config::new();
        assert_eq!(with(&config, &[("WEB_CONCURRENCY", "6")]).unwrap().workers, 6);
        assert_eq!(with(&config, &[("WEB_CONCURRENCY", "6"), ("CLUSTER_WORKERS", "2")]).unwrap().workers, 2);
        assert_eq!(with(&config, &[("WEB_CONCURRENCY", "6"), ("CLUSTER_WORKERS", "")]).unwrap().workers, 6);
    }

    #[test]
    fn auto_is_at_least_one_worker() {
        assert!(with(&Config::new(), &[("CLUSTER_WORKERS", "auto")]).unwrap().workers >= 1);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name_and_with_a_remedy() {
        let config = Config::new();
        for (name, value) in [
            ("CLUSTER_WORKERS", "0"),
            ("CLUSTER_WORKERS", "-1"),
            ("CLUSTER_WORKERS", "many"),
            ("CLUSTER_WORKERS", "1025"),
            ("WEB_CONCURRENCY", "two"),
            ("CLUSTER_THREADS", "0"),
            ("CLUSTER_DISPATCH", "fair"),
            ("CLUSTER_RESTART", "sometimes"),
            ("CLUSTER_START_TIMEOUT", "0s"),
            ("CLUSTER_START_TIMEOUT", "5"),
            ("CLUSTER_GRACE", "2days"),
            ("CLUSTER_GRACE", "soon"),
            ("CLUSTER_QUIET", "maybe"),
        ] {
            let error = with(&config, &[(name, value)]).expect_err(name).to_string();
            assert!(error.contains("set "), "{name}={value}: {error}");
        }
        assert!(with(&config.workers(0), &[]).is_err());
    }

    #[test]
    fn a_value_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let error = Config::new().settings(|name| (name == "CLUSTER_GRACE").then(|| OsString::from_vec(vec![0xff])));
        assert!(error.unwrap_err().to_string().contains("CLUSTER_GRACE"));
    }
}
