//! Follows one worker from its first packet to its end; a task of its own for each.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Happening;
use super::spawn::Child;
use crate::WorkerId;
use crate::control::Control;

/// How long a worker whose control lane has ended may still exist: it is exiting, and the kernel takes its time to clean up.
const LAST_BREATH: Duration = Duration::from_secs(10);
/// Packets of a worker that is gone which are still heard; more of them come from somebody else who holds its end of the lane.
const LAST_PACKETS: usize = 512;

/// Tells the shell what the worker says, and last that it has ended.
pub(super) async fn watch(worker: WorkerId, child: Child, control: Arc<Control>, inbox: mpsc::Sender<Happening>) {
    tokio::select! {
        biased;
        () = listen(worker, &child, &control, &inbox) => {}
        () = child.ended() => {}
    }
    // What it said last still counts; a broken lane, now, no longer does.
    for _ in 0..LAST_PACKETS {
        let Ok(Some((packet, _fds))) = control.receive_now() else { break };
        tell(&inbox, Happening::Packet(worker, packet)).await;
    }
    tell(&inbox, Happening::Exited(worker, child)).await;
}

/// Passes on packets; completes only when the lane and the worker have ended.
async fn listen(worker: WorkerId, child: &Child, control: &Control, inbox: &mpsc::Sender<Happening>) {
    let broken = loop {
        match control.receive().await {
            // No packet of a worker carries descriptors; such as come are closed here.
            Ok(Some((packet, _fds))) => tell(inbox, Happening::Packet(worker, packet)).await,
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    if broken.is_none() && timeout(LAST_BREATH, child.ended()).await.is_ok() {
        return;
    }
    let text = broken.unwrap_or_else(|| "it closed its control lane and lives on".into());
    tell(inbox, Happening::Broken(worker, text)).await;
    pending::<()>().await;
}

async fn tell(inbox: &mpsc::Sender<Happening>, happening: Happening) {
    // The shell's end lives as long as the runtime on which this runs.
    _ = inbox.send(happening).await;
}
