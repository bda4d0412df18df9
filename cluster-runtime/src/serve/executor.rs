//! Where the streams of an HTTP/2 connection run: each in a task of its own, that can be ended alone.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use hyper::rt::Executor;

use super::activity::Activity;
use super::streams::Stream;

thread_local! {
    /// The stream that the app was just called for, between that and its task, which hyper makes at once.
    static NEWBORN: RefCell<Option<Arc<Stream>>> = const { RefCell::new(None) };
}

/// The next task of this thread is that of this stream.
pub(super) fn expect_task_of(stream: &Arc<Stream>) {
    NEWBORN.set(Some(Arc::clone(stream)));
}

/// Makes the tasks of one connection.
#[derive(Clone, Debug)]
pub(super) struct Spawner(pub(super) Arc<Activity>);

impl<F> Executor<F> for Spawner
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        // Any other task is that of a tunnel, by which a connection is in use, too.
        let stream = NEWBORN.take().unwrap_or_else(|| Stream::new(&self.0));
        let held = Arc::clone(&stream);
        let task = tokio::spawn(async move {
            let _held = held;
            future.await
        });
        stream.runs_as(task.abort_handle());
    }
}
