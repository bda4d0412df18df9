//! The attribute's arguments: tokens → [`Args`], the keys as written → [`Plan`], every value checked and typed.
//!
//! A wrong key costs only itself: the rest is still read, so that one build shows all mistakes. The keys, how each is
//! written and what people write instead stand in one table, [`Key::spec`].

use std::time::Duration;

use bytesize::ByteSize;
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt as _;
use syn::parse::{ParseStream, Parser as _};
use syn::{Error, Expr, ExprLit, ExprPath, Lit, LitInt, Path, Result, Token};

use crate::mistakes::Mistakes;

/// What the attribute asks for. A key that was not given is `None`: its default is the runtime's to know.
#[derive(Default)]
pub(crate) struct Plan {
    /// Where the runtime crate is found, if not at `::cluster`.
    pub(crate) krate: Option<Path>,
    /// The expression that takes the place of `Config::new()`.
    pub(crate) config: Option<Expr>,
    pub(crate) workers: Option<Given<Workers>>,
    pub(crate) threads: Option<Given<usize>>,
    pub(crate) dispatch: Option<Given<Dispatch>>,
    pub(crate) restart: Option<Given<Restart>>,
    pub(crate) start_timeout: Option<Given<Duration>>,
    pub(crate) grace: Option<Given<Duration>>,
    pub(crate) drain_delay: Option<Given<Duration>>,
    pub(crate) drain_spread: Option<Given<Duration>>,
    pub(crate) surge: Option<Given<usize>>,
    pub(crate) watchdog: Option<Given<Limit<Duration>>>,
    pub(crate) max_requests: Option<Given<Limit<u64>>>,
    pub(crate) max_age: Option<Given<Limit<Duration>>>,
    /// In bytes.
    pub(crate) max_memory: Option<Given<Limit<u64>>>,
    /// In bytes.
    pub(crate) max_message: Option<Given<u64>>,
    pub(crate) max_expansion: Option<Given<u32>>,
    pub(crate) setup: Option<Given<Expr>>,
    pub(crate) primary: Option<Given<ExprPath>>,
}

/// A value, and its key as written: the setter of the same name takes the key's span.
pub(crate) struct Given<T> {
    pub(crate) key: Ident,
    pub(crate) value: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    Auto,
    Count(usize),
}

/// A limit that can be turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit<T> {
    Off,
    At(T),
}

pub(crate) enum Dispatch {
    Balanced,
    Kernel,
    RoundRobin,
    Sticky,
    /// A policy with settings, or of the user's own.
    Value(Expr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Plan {
    /// Reads the arguments; what is wrong is noted and left out of the plan.
    pub(crate) fn read(args: TokenStream, mistakes: &mut Mistakes) -> Self {
        let mut plan = Self::default();
        for arg in Args::parse(args, mistakes).0 {
            if let Err(error) = plan.set(arg) {
                mistakes.add(error);
            }
        }
        plan
    }

    fn set(&mut self, Arg { key, name, value }: Arg) -> Result<()> {
        match key {
            Key::Workers => self.workers = Some(Given { key: name, value: workers(&value)? }),
            Key::Threads => self.threads = Some(Given { key: name, value: count(key, &value)? }),
            Key::Primary => self.primary = Some(Given { key: name, value: function(value)? }),
            Key::Dispatch => self.dispatch = Some(Given { key: name, value: dispatch(value)? }),
            Key::Restart => self.restart = Some(Given { key: name, value: restart(&value)? }),
            Key::StartTimeout => self.start_timeout = Some(Given { key: name, value: start_timeout(&value)? }),
            Key::Grace => self.grace = Some(Given { key: name, value: duration(key, &value)? }),
            Key::DrainDelay => self.drain_delay = Some(Given { key: name, value: duration(key, &value)? }),
            Key::DrainSpread => self.drain_spread = Some(Given { key: name, value: duration(key, &value)? }),
            Key::Surge => self.surge = Some(Given { key: name, value: count(key, &value)? }),
            Key::Watchdog => self.watchdog = Some(Given { key: name, value: limit(&value, long_time(key))? }),
            Key::MaxRequests => self.max_requests = Some(Given { key: name, value: limit(&value, requests)? }),
            Key::MaxAge => self.max_age = Some(Given { key: name, value: limit(&value, long_time(key))? }),
            Key::MaxMemory => self.max_memory = Some(Given { key: name, value: limit(&value, memory)? }),
            Key::MaxMessage => self.max_message = Some(Given { key: name, value: message(&value)? }),
            Key::MaxExpansion => self.max_expansion = Some(Given { key: name, value: count(key, &value)? as u32 }),
            Key::Setup => self.setup = Some(Given { key: name, value: setup(value)? }),
            Key::Config => self.config = Some(value),
            Key::Crate => self.krate = Some(crate_path(&value)?),
        }
        Ok(())
    }
}

/// The path in `crate = "my::cluster"` or `crate = my::cluster`, here and in `#[message(..)]`.
pub(crate) fn crate_path(value: &Expr) -> Result<Path> {
    match value {
        Expr::Path(ExprPath { qself: None, path, .. }) => Ok(path.clone()),
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            text.parse_with(Path::parse_mod_style).map_err(|_| Key::Crate.mistyped(value))
        }
        _ => Err(Key::Crate.mistyped(value)),
    }
}

/// The keys as written: known, each once, each with an expression for its value.
struct Args(Vec<Arg>);

struct Arg {
    key: Key,
    name: Ident,
    value: Expr,
}

impl Args {
    fn parse(args: TokenStream, mistakes: &mut Mistakes) -> Self {
        let mut list = Vec::<Arg>::new();
        let read = |input: ParseStream<'_>| {
            while !input.is_empty() {
                match Arg::parse(input) {
                    Ok(arg) if list.iter().any(|earlier| earlier.key == arg.key) => {
                        mistakes.at(arg.name.span(), format_args!("`{}` is given twice: keep one of them", arg.name));
                    }
                    Ok(arg) => list.push(arg),
                    Err(error) => mistakes.add(error),
                }
                skip_to_next(input)?;
            }
            Ok(())
        };
        read.parse2(args).expect("the reader goes to the end and notes what it cannot read");
        Self(list)
    }
}

impl Arg {
    /// Reads one `key = value` and what follows it up to the comma.
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let Ok(name) = input.call(Ident::parse_any) else {
            return Err(input.error("write `key = value`, such as `workers = 4`"));
        };
        let key = Key::named(&name)?;
        let valueless = |_| Error::new(name.span(), format_args!("`{name}` needs a value: write {}", key.spec().form));
        input.parse::<Token![=]>().map_err(valueless)?;
        if input.is_empty() || input.peek(Token![,]) {
            return Err(valueless(input.error("")));
        }
        let value = unwrapped(input.parse().map_err(|error| Error::new(error.span(), key.form()))?);
        if input.is_empty() || input.peek(Token![,]) {
            Ok(Self { key, name, value })
        } else {
            Err(input.error(format_args!("write a `,` after the value of `{name}`")))
        }
    }
}

/// Goes on to behind the next comma, so that a mistake in one argument leaves the next readable.
fn skip_to_next(input: ParseStream<'_>) -> Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    input.parse::<Option<Token![,]>>().map(drop)
}

/// The expression without the invisible group in which a `macro_rules!` argument comes.
fn unwrapped(value: Expr) -> Expr {
    match value {
        Expr::Group(group) => unwrapped(*group.expr),
        other => other,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Workers,
    Threads,
    Primary,
    Dispatch,
    Restart,
    StartTimeout,
    Grace,
    DrainDelay,
    DrainSpread,
    Surge,
    Watchdog,
    MaxRequests,
    MaxAge,
    MaxMemory,
    MaxMessage,
    MaxExpansion,
    Setup,
    Config,
    Crate,
}

/// What there is to say about a key.
struct Spec {
    name: &'static str,
    /// How it is written, for "write …".
    form: &'static str,
    /// What is written in its place by mistake.
    mistaken: &'static [&'static str],
}

impl Key {
    const ALL: [Self; 19] = [
        Self::Workers,
        Self::Threads,
        Self::Primary,
        Self::Dispatch,
        Self::Restart,
        Self::StartTimeout,
        Self::Grace,
        Self::DrainDelay,
        Self::DrainSpread,
        Self::Surge,
        Self::Watchdog,
        Self::MaxRequests,
        Self::MaxAge,
        Self::MaxMemory,
        Self::MaxMessage,
        Self::MaxExpansion,
        Self::Setup,
        Self::Config,
        Self::Crate,
    ];

    const fn spec(self) -> Spec {
        let (name, form, mistaken): (_, _, &[_]) = match self {
            Self::Workers => (
                "workers",
                r#"`workers = "auto"` or `workers = 4`"#,
                &["worker", "num_workers", "n_workers", "worker_count", "count", "processes", "instances"],
            ),
            Self::Threads => (
                "threads",
                "`threads = 2`",
                &["thread", "worker_threads", "num_threads", "thread_count", "flavor", "core_threads"],
            ),
            Self::Primary => {
                ("primary", "`primary = path::to::function`", &["primary_fn", "on_primary", "main", "master", "parent"])
            }
            Self::Dispatch => (
                "dispatch",
                r#"`dispatch = "balanced"`, `"kernel"`, `"round-robin"`, `"sticky"` or an expression such as `Sticky::cookie("session")`"#,
                &["placement", "balance", "balancing", "scheduling", "scheduling_policy", "policy", "sticky"],
            ),
            Self::Restart => (
                "restart",
                r#"`restart = "always"`, `"on-failure"` or `"never"`"#,
                &["restarts", "restart_policy", "respawn"],
            ),
            Self::StartTimeout => (
                "start_timeout",
                r#"`start_timeout = "30s"`"#,
                &["timeout", "starttimeout", "startup_timeout", "ready_timeout", "start_time"],
            ),
            Self::Grace => (
                "grace",
                r#"`grace = "30s"`"#,
                &["grace_period", "graceful", "grace_timeout", "stop_timeout", "shutdown_timeout", "drain_timeout"],
            ),
            Self::DrainDelay => (
                "drain_delay",
                r#"`drain_delay = "5s"`"#,
                &["delay", "shutdown_delay", "pre_stop", "stop_delay", "lame_duck"],
            ),
            Self::DrainSpread => {
                ("drain_spread", r#"`drain_spread = "10s"`"#, &["spread", "close_spread", "close_spread_time"])
            }
            Self::Surge => ("surge", "`surge = 1`", &["max_surge", "reload_workers", "parallel"]),
            Self::Watchdog => (
                "watchdog",
                r#"`watchdog = "60s"` or `watchdog = "off"`"#,
                &["worker_timeout", "heartbeat", "hang_timeout", "watchdog_timeout"],
            ),
            Self::MaxRequests => (
                "max_requests",
                r#"`max_requests = 100_000` or `max_requests = "off"`"#,
                &["requests", "max_connections", "max_tasks"],
            ),
            Self::MaxAge => (
                "max_age",
                r#"`max_age = "12h"` or `max_age = "off"`"#,
                &["age", "lifetime", "max_lifetime", "max_worker_lifetime", "ttl"],
            ),
            Self::MaxMemory => (
                "max_memory",
                r#"`max_memory = "512MiB"` or `max_memory = "off"`"#,
                &["memory", "max_memory_restart", "max_rss", "memory_limit", "reload_on_rss"],
            ),
            Self::MaxMessage => (
                "max_message",
                r#"`max_message = "64MiB"`, 128KiB at least and 1GiB at most"#,
                &["message_limit", "max_message_size", "max_frame", "max_payload"],
            ),
            Self::MaxExpansion => (
                "max_expansion",
                "`max_expansion = 16`, 1 at least and 1024 at most",
                &["expansion", "max_ratio", "max_decoded", "max_amplification", "decode_limit"],
            ),
            Self::Setup => (
                "setup",
                r#"`setup = expression`, such as `setup = cluster::Setup::new().cwd("/srv")`"#,
                &[
                    "env", "cwd", "user", "group", "uid", "gid", "stdio", "output", "silent", "nice", "affinity",
                    "rlimit",
                ],
            ),
            Self::Config => {
                ("config", "`config = expression`, of type `cluster::Config`", &["configuration", "conf", "cfg"])
            }
            Self::Crate => ("crate", r#"`crate = "path::to::cluster"`"#, &["krate", "crate_path", "crate_name"]),
        };
        Spec { name, form, mistaken }
    }

    fn named(name: &Ident) -> Result<Self> {
        let text = name.unraw().to_string();
        if let Some(key) = Self::ALL.into_iter().find(|key| key.spec().name == text) {
            return Ok(key);
        }
        let meant = Self::ALL.into_iter().map(Self::spec).find(|spec| spec.mistaken.contains(&text.as_str()));
        Err(match meant {
            Some(Spec { name: known, form, .. }) => {
                Error::new(name.span(), format_args!("unknown key `{name}`; did you mean `{known}`? Write {form}"))
            }
            None => {
                let known = Self::ALL.map(|key| format!("`{}`", key.spec().name)).join(", ");
                Error::new(name.span(), format_args!("unknown key `{name}`; the keys are {known}"))
            }
        })
    }

    fn form(self) -> String {
        format!("write {}", self.spec().form)
    }

    fn mistyped(self, value: &Expr) -> Error {
        let Spec { name, form, .. } = self.spec();
        Error::new_spanned(value, format_args!("this is no value for `{name}`: write {form}"))
    }
}

/// More than anyone means; a typing error is more likely. The runtime holds the same limit.
const MOST: usize = 1024;
/// The longest time that a setting may name. The runtime holds the same limit.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that a worker may be told to live; the runtime's limit, too.
const LONGEST_AGE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn workers(value: &Expr) -> Result<Workers> {
    match text(value) {
        Some((word, _)) if word == "auto" => Ok(Workers::Auto),
        Some((word, span)) if word.parse::<usize>().is_ok() => {
            Err(Error::new(span, format_args!("write the number without quotes: `workers = {word}`")))
        }
        _ => count(Key::Workers, value).map(Workers::Count),
    }
}

fn count(key: Key, value: &Expr) -> Result<usize> {
    let Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) = value else { return Err(key.mistyped(value)) };
    if !matches!(number.suffix(), "" | "usize") {
        return Err(key.mistyped(value));
    }
    match number.base10_parse() {
        Ok(count @ 1..=MOST) => Ok(count),
        _ => Err(out_of_range(key, number)),
    }
}

fn out_of_range(key: Key, number: &LitInt) -> Error {
    let Spec { name, .. } = key.spec();
    let auto = if key == Key::Workers { r#", or `workers = "auto"` for one per core"# } else { "" };
    Error::new(number.span(), format_args!("`{name}` is out of range: write a number from 1 to {MOST}{auto}"))
}

fn function(value: Expr) -> Result<ExprPath> {
    match value {
        Expr::Path(path) => Ok(path),
        Expr::Closure(_) => {
            Err(Error::new_spanned(value, "`primary` names a function: write the closure as an `async fn` of its own"))
        }
        Expr::Call(call) => {
            Err(Error::new_spanned(call, "`primary` names a function and does not call it: leave out the `(..)`"))
        }
        other => Err(Key::Primary.mistyped(&other)),
    }
}

fn dispatch(value: Expr) -> Result<Dispatch> {
    let Some((word, span)) = text(&value) else {
        let is_value = !matches!(value, Expr::Lit(_) | Expr::Closure(_));
        return if is_value { Ok(Dispatch::Value(value)) } else { Err(Key::Dispatch.mistyped(&value)) };
    };
    match word.as_str() {
        "balanced" => Ok(Dispatch::Balanced),
        "kernel" => Ok(Dispatch::Kernel),
        "round-robin" => Ok(Dispatch::RoundRobin),
        "sticky" => Ok(Dispatch::Sticky),
        _ => Err(Error::new(span, format_args!("unknown dispatch policy: {}", Key::Dispatch.form()))),
    }
}

fn setup(value: Expr) -> Result<Expr> {
    match value {
        Expr::Lit(_) | Expr::Closure(_) => Err(Key::Setup.mistyped(&value)),
        other => Ok(other),
    }
}

fn restart(value: &Expr) -> Result<Restart> {
    let Some((word, span)) = text(value) else { return Err(Key::Restart.mistyped(value)) };
    match word.as_str() {
        "always" => Ok(Restart::Always),
        "on-failure" => Ok(Restart::OnFailure),
        "never" => Ok(Restart::Never),
        _ => Err(Error::new(span, format_args!("unknown restart policy: {}", Key::Restart.form()))),
    }
}

fn start_timeout(value: &Expr) -> Result<Duration> {
    let time = duration(Key::StartTimeout, value)?;
    if time.is_zero() {
        return Err(Error::new_spanned(value, r#"no worker is ready in no time: write `start_timeout = "30s"`"#));
    }
    Ok(time)
}

/// The value, unless it is `"off"`.
fn limit<T>(value: &Expr, read: impl FnOnce(&Expr) -> Result<T>) -> Result<Limit<T>> {
    match text(value) {
        Some((word, _)) if word == "off" => Ok(Limit::Off),
        _ => read(value).map(Limit::At),
    }
}

/// A time of a second or more.
fn long_time(key: Key) -> impl Fn(&Expr) -> Result<Duration> {
    move |value| {
        let time = duration(key, value)?;
        let name = key.spec().name;
        if time < Duration::from_secs(1) {
            let text = format_args!("`{name}` is a second at least; {}", key.form());
            return Err(Error::new_spanned(value, text));
        }
        Ok(time)
    }
}

fn requests(value: &Expr) -> Result<u64> {
    let key = Key::MaxRequests;
    let Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) = value else { return Err(key.mistyped(value)) };
    match number.base10_parse() {
        Ok(requests @ 1..) if matches!(number.suffix(), "" | "u64") => Ok(requests),
        _ => Err(key.mistyped(value)),
    }
}

fn memory(value: &Expr) -> Result<u64> {
    size(value).filter(|bytes| *bytes > 0).ok_or_else(|| Key::MaxMemory.mistyped(value))
}

fn message(value: &Expr) -> Result<u64> {
    size(value).filter(|bytes| (128 << 10..=1 << 30).contains(bytes)).ok_or_else(|| Key::MaxMessage.mistyped(value))
}

fn size(value: &Expr) -> Option<u64> {
    text(value).and_then(|(text, _)| text.parse::<ByteSize>().ok()).map(|size| size.as_u64())
}

fn duration(key: Key, value: &Expr) -> Result<Duration> {
    let name = key.spec().name;
    if let Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) = value {
        let unit = if number.suffix().is_empty() { "s" } else { "" };
        return Err(Error::new(
            number.span(),
            format_args!("a time is written with its unit, in quotes: `{name} = \"{number}{unit}\"`"),
        ));
    }
    let Some((words, span)) = text(value) else { return Err(key.mistyped(value)) };
    match humantime::parse_duration(&words) {
        Ok(time) if key == Key::MaxAge && time > LONGEST_AGE => {
            Err(Error::new(span, format_args!("`{name}` is at most \"366days\"")))
        }
        Ok(time) if key != Key::MaxAge && time > LONGEST => {
            Err(Error::new(span, format_args!("`{name}` is at most \"24h\"")))
        }
        Ok(time) if time.subsec_nanos() % 1_000_000 != 0 => {
            Err(Error::new(span, format_args!("`{name}` counts in whole milliseconds, such as \"500ms\"")))
        }
        Ok(time) => Ok(time),
        Err(_) => {
            Err(Error::new(span, format_args!(r#"`{name}` is a time with its unit: write "30s", "500ms" or "1m 30s""#)))
        }
    }
}

/// The text of a string literal.
fn text(value: &Expr) -> Option<(String, Span)> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some((text.value(), text.span())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn read(args: TokenStream) -> (Plan, Vec<String>) {
        let mut mistakes = Mistakes::default();
        let plan = Plan::read(args, &mut mistakes);
        (plan, mistakes.messages())
    }

    fn value<T>(given: Option<Given<T>>) -> Option<T> {
        given.map(|given| given.value)
    }

    #[test]
    fn what_is_not_given_is_not_in_the_plan() {
        let (plan, mistakes) = read(TokenStream::new());
        assert!(mistakes.is_empty());
        assert!(plan.krate.is_none() && plan.config.is_none() && plan.primary.is_none());
        assert!(plan.workers.is_none() && plan.threads.is_none() && plan.restart.is_none());
        assert!(plan.start_timeout.is_none() && plan.grace.is_none());
    }

    #[test]
    fn values_are_typed() {
        let (plan, mistakes) = read(quote!(workers = 1024usize, threads = 1, restart = "never", grace = "0s"));
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(value(plan.workers), Some(Workers::Count(1024)));
        assert_eq!(value(plan.threads), Some(1));
        assert_eq!(value(plan.restart), Some(Restart::Never));
        assert_eq!(value(plan.grace), Some(Duration::ZERO));
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, milliseconds) in [("30s", 30_000), ("500ms", 500), ("1m 30s", 90_000), ("24h", 86_400_000)] {
            let (plan, mistakes) = read(quote!(start_timeout = #text));
            assert!(mistakes.is_empty(), "{mistakes:?}");
            assert_eq!(value(plan.start_timeout), Some(Duration::from_millis(milliseconds)));
        }
    }

    #[test]
    fn limits_can_be_set_and_turned_off() {
        let (plan, mistakes) = read(quote!(max_requests = 1_000, max_age = "7days", max_memory = "1.5GiB"));
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(value(plan.max_requests), Some(Limit::At(1_000)));
        assert_eq!(value(plan.max_age), Some(Limit::At(Duration::from_secs(7 * 86_400))));
        assert_eq!(value(plan.max_memory), Some(Limit::At(3 << 29)));
        let (plan, mistakes) = read(quote!(max_requests = "off", max_age = "off", watchdog = "off"));
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(value(plan.max_requests), Some(Limit::Off));
        assert_eq!((value(plan.max_age), value(plan.watchdog)), (Some(Limit::Off), Some(Limit::Off)));
    }

    #[test]
    fn an_invisible_group_is_looked_through() {
        let number = proc_macro2::Group::new(proc_macro2::Delimiter::None, quote!(4));
        let (plan, mistakes) = read(quote!(workers = #number));
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(value(plan.workers), Some(Workers::Count(4)));
    }

    #[test]
    fn every_wrong_key_is_reported_once_and_the_rest_is_read() {
        let (plan, mistakes) = read(quote! {
            workers = 0, threads, colour = "red", restart = 3, grace = "soon", grace = "1s", 7, start_timeout = "2s"
        });
        assert_eq!(mistakes.len(), 7, "{mistakes:?}");
        assert_eq!(value(plan.start_timeout), Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_is_written_by_mistake_is_no_key_and_leads_to_one() {
        for known in Key::ALL.map(Key::spec) {
            for mistaken in known.mistaken {
                let name = Ident::new(mistaken, Span::call_site());
                let (_, mistakes) = read(quote!(#name = 4));
                assert_eq!(mistakes.len(), 1);
                assert!(mistakes[0].contains(&format!("did you mean `{}`", known.name)), "{mistakes:?}");
            }
        }
    }

    #[test]
    fn every_wrong_value_names_what_to_write() {
        for args in [
            quote!(workers = -1),
            quote!(workers = 4u8),
            quote!(workers = "many"),
            quote!(threads = "2"),
            quote!(threads = 2.0),
            quote!(primary = 3),
            quote!(primary = |primary| async {}),
            quote!(primary = count()),
            quote!(restart = "sometimes"),
            quote!(restart = Never),
            quote!(start_timeout = 30),
            quote!(start_timeout = "0s"),
            quote!(grace = 30s),
            quote!(grace = "30"),
            quote!(surge = "many"),
            quote!(watchdog = 60),
            quote!(watchdog = "10ms"),
            quote!(max_requests = 0),
            quote!(max_requests = "many"),
            quote!(max_age = "0s"),
            quote!(max_memory = 512),
            quote!(max_memory = "0MiB"),
            quote!(max_message = 64),
            quote!(max_message = "127KiB"),
            quote!(max_message = "2GiB"),
            quote!(max_expansion = 0),
            quote!(max_expansion = "16"),
            quote!(setup = "www-data"),
            quote!(crate = "not a path"),
            quote!(workers 4),
            quote!(workers),
            quote!(workers =),
            quote!(workers: 4),
            quote!(workers = 4 threads = 2),
        ] {
            let (_, mistakes) = read(args.clone());
            assert_eq!(mistakes.len(), 1, "{args}: {mistakes:?}");
            let remedy = ["write", "leave out"].iter().any(|word| mistakes[0].contains(word));
            assert!(remedy || mistakes[0].contains("in quotes"), "{args}: {mistakes:?}");
        }
    }
}
