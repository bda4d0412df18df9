//! [`run`]: where a program becomes a primary or a worker, and what may be its two functions.

use std::future::Future;
use std::process::exit;

use crate::boot::{self, Role};
use crate::config::{Config, NoPrimary};
use crate::error::exit_code;
use crate::ipc::{Message, NoMessages};
use crate::primary::{self, Primary};
use crate::report;
use crate::worker::{self, Worker};

/// Runs a cluster: what `#[cluster::main]` expands to.
///
/// Called in the process that the user starts, it becomes the primary: it spawns the workers, which are this program
/// again, supervises them until the cluster ends, and exits; it never returns. Called in a worker, it runs `main` on a tokio
/// runtime of [`threads`](Config::threads) threads and returns what `main` returns.
///
/// Call it as the whole body of `main`: code before it runs in every process, and no thread may have been started.
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// async fn app() -> cluster::Result {
///     let app = Router::new().route("/", get(|| async { "hello\n" }));
///     cluster::serve("127.0.0.1:3000", app).await
/// }
///
/// fn main() -> cluster::Result {
///     cluster::run(cluster::Config::new().workers(4), app)
/// }
/// ```
///
/// A program that cannot become either (a wrong setting, a worker mark that no primary made) says why on stderr and exits
/// with code 2.
pub fn run<P, M, A, O>(config: Config<P>, main: M) -> O
where
    // `O` and not `M::Output`: so a primary function of other message types is one error of the compiler's, and not two.
    M: WorkerMain<A, Output = O>,
    P: PrimaryMain<M::Up, M::Down>,
{
    let role = boot::take_role().unwrap_or_else(|error| refuse(&error));
    let resolved = config.resolve();
    let (succession, (settings, primary)) = match (role, resolved) {
        (Role::Trial(trial), resolved) => {
            let settings = resolved.as_ref().map(|(settings, _)| settings).map_err(ToString::to_string);
            exit(primary::answer::<M::Up, M::Down>(&trial, settings).into())
        }
        (Role::Successor(succession), Err(error)) => primary::go_back(&succession, &error.to_string()),
        (Role::Worker(_) | Role::Primary, Err(error)) => refuse(&error),
        (Role::Worker(inherited), Ok((settings, _))) => return worker::live(inherited, settings, main),
        (Role::Successor(succession), Ok(resolved)) => (Some(succession), resolved),
        (Role::Primary, Ok(resolved)) => (None, resolved),
    };
    exit(primary::reign::<P, M::Up, M::Down>(settings, primary, succession).into())
}

/// An async function that can be a worker's `main`: without arguments, or with one [`Worker`].
///
/// `A` only tells the two forms apart; it is always inferred.
#[diagnostic::on_unimplemented(
    message = "this function cannot be the main of a worker",
    label = "expected an async function of no arguments or of one `Worker`",
    note = "write `async fn main()` or `async fn main(worker: Worker<ToPrimary, ToWorker>)`, where both types derive `cluster::Message`"
)]
pub trait WorkerMain<A> {
    /// What the worker sends to the primary.
    type Up: Message;
    /// What the primary sends to the worker.
    type Down: Message;
    /// What `main` returns.
    type Output;

    #[doc(hidden)]
    fn start(self, worker: Worker<Self::Up, Self::Down>) -> impl Future<Output = Self::Output>;
}

impl<F, Fut> WorkerMain<()> for F
where
    F: FnOnce() -> Fut,
    Fut: Future,
{
    type Up = NoMessages;
    type Down = NoMessages;
    type Output = Fut::Output;

    fn start(self, _: Worker) -> impl Future<Output = Fut::Output> {
        self()
    }
}

impl<F, Fut, Up, Down> WorkerMain<(Up, Down)> for F
where
    F: FnOnce(Worker<Up, Down>) -> Fut,
    Fut: Future,
    Up: Message,
    Down: Message,
{
    type Up = Up;
    type Down = Down;
    type Output = Fut::Output;

    fn start(self, worker: Worker<Up, Down>) -> impl Future<Output = Fut::Output> {
        self(worker)
    }
}

/// An async function that can be the [`primary`](Config::primary) of a cluster whose workers use the same message types.
#[diagnostic::on_unimplemented(
    message = "this cannot be the primary function of this cluster",
    label = "expected an async function of one `Primary<{Up}, {Down}>`",
    note = "write `async fn count(mut primary: Primary<ToPrimary, ToWorker>) -> cluster::Result`, with the message types of main's `Worker`"
)]
pub trait PrimaryMain<Up: Message, Down: Message>: Send + 'static {
    #[doc(hidden)]
    fn start(self, primary: Primary<Up, Down>) -> impl Future<Output = Result<(), String>>;
}

impl<F, Fut, Up, Down> PrimaryMain<Up, Down> for F
where
    F: FnOnce(Primary<Up, Down>) -> Fut + Send + 'static,
    Fut: Future<Output: PrimaryOutput>,
    Up: Message,
    Down: Message,
{
    async fn start(self, primary: Primary<Up, Down>) -> Result<(), String> {
        self(primary).await.into_result()
    }
}

impl<Up: Message, Down: Message> PrimaryMain<Up, Down> for NoPrimary {
    /// Nobody is there to take the events: what workers send is dropped, and their requests fail at once.
    async fn start(self, _: Primary<Up, Down>) -> Result<(), String> {
        Ok(())
    }
}

/// What a primary function may return: nothing, or a `Result<(), E>` whose error can be shown.
pub trait PrimaryOutput {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), String>;
}

impl PrimaryOutput for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Debug> PrimaryOutput for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

fn refuse(error: &dyn std::error::Error) -> ! {
    report::say(error);
    exit(exit_code::CONFIG.into())
}
