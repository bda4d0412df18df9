//! Follows one worker from its first packet to its end; a task of its own for each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::spawn::Child;
use super::{Happening, sleep_until_some};
use crate::WorkerId;
use crate::control::{Control, ControlError, FromWorker};

/// How long a worker whose control lane has ended may still exist: it is exiting, and the kernel takes its time to clean up.
const LAST_BREATH: Duration = Duration::from_secs(10);
/// Packets of a worker that is gone which are still heard; more of them come from somebody else who holds its end of the lane.
const LAST_PACKETS: usize = 512;

/// How it is with the lane.
#[derive(Clone, Copy)]
enum LaneState {
    Open,
    /// It has ended, and the worker is to be gone by then.
    Ended {
        by: Instant,
    },
    /// The shell knows that nothing more can come.
    Broken,
}

/// Tells the shell what the worker says, and last that it has ended. Paused, it ends between two packets and gives the child back.
pub(super) async fn watch(
    worker: WorkerId,
    child: Child,
    control: Arc<Control>,
    inbox: mpsc::Sender<Happening>,
    mut pause: oneshot::Receiver<()>,
) {
    let mut lane = LaneState::Open;
    loop {
        let (is_open, by) = match lane {
            LaneState::Open => (true, None),
            LaneState::Ended { by } => (false, Some(by)),
            LaneState::Broken => (false, None),
        };
        // Nothing is taken out of the lane that is not told.
        let happening = tokio::select! {
            biased;
            Ok(()) = &mut pause => return tell(&inbox, Happening::Paused(worker, child)).await,
            packet = control.receive(), if is_open => match hear(worker, packet) {
                Some(happening) => happening,
                None => {
                    lane = LaneState::Ended { by: Instant::now() + LAST_BREATH };
                    continue;
                }
            },
            () = child.ended() => break,
            () = sleep_until_some(by) => {
                Happening::Broken(worker, "it closed its control lane and lives on".into())
            }
        };
        if matches!(happening, Happening::Broken(..)) {
            lane = LaneState::Broken;
        }
        tell(&inbox, happening).await;
    }
    // What it said last still counts; a broken lane, now, no longer does.
    for _ in 0..LAST_PACKETS {
        let Ok(Some((packet, _fds))) = control.receive_now() else { break };
        tell(&inbox, Happening::Packet(worker, packet)).await;
    }
    tell(&inbox, Happening::Exited(worker, child)).await;
}

/// `None` at the end of the lane. No packet of a worker carries descriptors; such as come are closed here.
fn hear<F>(worker: WorkerId, packet: Result<Option<(FromWorker, F)>, ControlError>) -> Option<Happening> {
    match packet {
        Ok(Some((packet, _fds))) => Some(Happening::Packet(worker, packet)),
        Ok(None) => None,
        Err(error) => Some(Happening::Broken(worker, error.to_string())),
    }
}

async fn tell(inbox: &mpsc::Sender<Happening>, happening: Happening) {
    // The shell's end lives as long as the runtime on which this runs.
    _ = inbox.send(happening).await;
}
