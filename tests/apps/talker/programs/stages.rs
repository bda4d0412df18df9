//! One worker that goes from stage to stage when the primary function lets it, and what the list says at each.

use cluster::WorkerState;
use cluster::{Event, Primary, Worker};
use nix::sys::signal::{Signal, kill};
use tokio::time::sleep;

use crate::process::pid_of;
use crate::talk::Talk;
use crate::{TICK, tell};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    let shutdown = worker.shutdown();
    worker.recv().await;
    worker.ready();
    shutdown.await;
    worker.recv().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    while let Some(event) = primary.next().await {
        match event {
            Event::Forked(id) => {
                show(&primary, "forked");
                let pid = pid_of(&primary, id).expect("it is in the list");
                let stopped =
                    || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "));
                while !stopped() {
                    sleep(TICK).await;
                }
                show(&primary, "stopped");
                kill(pid, Signal::SIGCONT).expect("it is ours");
            }
            Event::Online(id) => {
                show(&primary, "online");
                primary.send(id, Talk::Go).await?;
            }
            Event::Ready(id) => {
                show(&primary, "ready");
                primary.shutdown();
                while primary.workers().iter().any(|info| info.state == WorkerState::Ready) {
                    sleep(TICK).await;
                }
                show(&primary, "told to go");
                primary.send(id, Talk::Go).await?;
            }
            Event::Exited(..) => show(&primary, "exited"),
            _ => {}
        }
    }
    Ok(())
}

fn show(primary: &Primary<Talk, Talk>, when: &str) {
    tell(format_args!("{when}: {:?}", primary.workers()));
}
