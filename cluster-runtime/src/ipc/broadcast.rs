//! One message on many lanes.

use super::{Encoded, Lane, Message, TrySendError};

impl<Out: Message, In: Message> Lane<Out, In> {
    /// Sends on all of these lanes, and returns on how many. Those that have ended are passed over; one without room makes this
    /// wait, but not the message on the others.
    ///
    /// Cancel safety: dropped while it waits, the message is not sent on the lanes that it waits for.
    pub(crate) async fn send_to_all(lanes: impl IntoIterator<Item = Self>, message: &Encoded) -> usize {
        let mut reached = 0;
        let mut slow = Vec::new();
        for lane in lanes {
            match lane.try_send_encoded(message) {
                Ok(()) => reached += 1,
                Err(TrySendError::Full) => slow.push(lane),
                Err(TrySendError::Failed(_gone)) => {}
            }
        }
        for lane in slow {
            reached += usize::from(lane.send_encoded(message).await.is_ok());
        }
        reached
    }
}
