//! One message on many lanes.

use super::{Lane, Message, SendError, TrySendError};

impl<Out: Message, In: Message> Lane<Out, In> {
    /// Encodes a message once, for `limit` bytes or the smallest limit of these lanes, sends it on all of them, and returns on how many.
    /// Those that have ended are passed over; one without room makes this wait, but not the message on the others.
    ///
    /// Cancel safety: dropped while it waits, the message is not sent on the lanes that it waits for.
    pub(crate) async fn send_to_all(lanes: Vec<Self>, limit: usize, message: Out) -> Result<usize, SendError> {
        let limit = lanes.iter().map(|lane| lane.core().limits.message).fold(limit, usize::min);
        let message = &Self::encode_once(message, limit)?;
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
        Ok(reached)
    }
}
