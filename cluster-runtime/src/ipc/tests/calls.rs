//! Questions and answers.

use std::pin::pin;

use super::*;

#[tokio::test]
async fn a_call_gets_its_answer() {
    let (worker, primary, ..) = connected();
    let answering = tokio::spawn(async move {
        while let Some(message) = primary.recv().await {
            if let Up::Total(reply) = message {
                reply.send(42);
            }
        }
    });
    assert_eq!(soon(worker.call(Up::Total)).await, Ok(42));
    assert_eq!(worker.core().open_questions(), 0);
    worker.close();
    soon(answering).await.unwrap();
}

#[tokio::test]
async fn calls_at_the_same_time_may_be_answered_in_any_order() {
    let (worker, primary, ..) = connected();
    let asking: Vec<_> = (0..100)
        .map(|number| {
            let worker = worker.clone();
            tokio::spawn(async move {
                let text = format!("question {number}");
                let answer = worker.call(|reply| Up::Echo { text: text.clone(), reply }).await;
                assert_eq!(answer, Ok(text));
            })
        })
        .collect();
    let mut questions = Vec::new();
    while questions.len() < 100 {
        match soon(primary.recv()).await {
            Some(Up::Echo { text, reply }) => questions.push((text, reply)),
            other => panic!("a question was expected, not {other:?}"),
        }
    }
    for (text, reply) in questions.into_iter().rev() {
        reply.send(text);
    }
    for one in asking {
        soon(one).await.unwrap();
    }
}

#[tokio::test]
async fn a_reply_that_is_dropped_tells_the_caller_at_once() {
    let (worker, primary, ..) = connected();
    let asking = tokio::spawn({
        let worker = worker.clone();
        async move { worker.call(Up::Total).await }
    });
    drop(soon(primary.recv()).await);
    assert_eq!(soon(asking).await.unwrap(), Err(CallError::Unanswered));
}

#[tokio::test]
async fn a_reply_that_is_not_put_into_the_message_tells_the_caller_too() {
    let (worker, primary, ..) = connected();
    let asked = worker.call(|_reply: Reply<u64>| Up::Count(1));
    assert_eq!(soon(asked).await, Err(CallError::Unanswered));
    assert_eq!(count(&primary).await, 1);
    let answered_here = worker.call(|reply: Reply<u64>| {
        reply.send(3);
        Up::Count(2)
    });
    assert_eq!(soon(answered_here).await, Ok(3));
}

#[tokio::test]
async fn the_end_of_the_peer_fails_every_call() {
    let (worker, primary, ..) = connected();
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let worker = worker.clone();
            tokio::spawn(async move { worker.call(Up::Total).await })
        })
        .collect();
    let mut replies = Vec::new();
    while replies.len() < 10 {
        replies.push(soon(primary.recv()).await);
    }
    primary.close();
    for one in asking {
        assert_eq!(soon(one).await.unwrap(), Err(CallError::Gone));
    }
    drop(replies);
    assert_eq!(soon(worker.call(Up::Total)).await, Err(CallError::Gone));
    assert_eq!(worker.core().open_questions(), 0);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_withdrawn_and_its_answer_ignored() {
    let (worker, primary, ..) = connected();
    {
        let mut asking = pin!(worker.call(Up::Total));
        assert!(poll_once(asking.as_mut()).is_pending());
        assert_eq!(worker.core().open_questions(), 1);
    }
    assert_eq!(worker.core().open_questions(), 0);
    let Some(Up::Total(reply)) = soon(primary.recv()).await else { panic!("the question was sent") };
    reply.send(1);
    primary.send(Down::Count(2)).await.unwrap();
    assert_eq!(soon(worker.recv()).await, Some(Down::Count(2)));
    assert!(worker.is_open());
}

#[tokio::test]
async fn a_call_completes_while_the_inbox_is_full_of_messages_that_nobody_takes() {
    let (worker, primary, ..) = connected();
    let asking = tokio::spawn({
        let worker = worker.clone();
        async move { worker.call(Up::Total).await }
    });
    let Some(Up::Total(reply)) = soon(primary.recv()).await else { panic!("a question was sent") };
    let mut number = 0;
    while primary.try_send(Down::Count(number)).is_ok() {
        number += 1;
    }
    until(|| primary.core().buffered().0 == 0).await;
    reply.send(5);
    assert_eq!(soon(asking).await.unwrap(), Ok(5));
    assert!(worker.has_messages());
}

#[tokio::test]
async fn a_reply_handle_that_came_in_cannot_be_sent_on_and_its_caller_is_told() {
    let (worker, primary, ..) = connected();
    let (elsewhere, ..) = connected();
    let asking = tokio::spawn(async move { worker.call(Up::Total).await });
    let Some(Up::Total(reply)) = soon(primary.recv()).await else { panic!("a question was sent") };
    assert_eq!(elsewhere.send(Up::Total(reply)).await, Err(SendError::ForwardedReply));
    assert_eq!(soon(asking).await.unwrap(), Err(CallError::Unanswered));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent_and_not_remembered() {
    let (worker, ..) = connected();
    let asked = worker.call(|reply| Up::Echo { text: "x".repeat(17 << 20), reply });
    assert!(matches!(soon(asked).await, Err(CallError::NotSent(SendError::TooLarge { .. }))));
    assert_eq!(worker.core().open_questions(), 0);
}

#[tokio::test]
async fn several_large_answers_wait_side_by_side_and_keep_no_small_one() {
    let (worker, primary, ..) = connected();
    let ask = |text: String| {
        let worker = worker.clone();
        tokio::spawn(async move { worker.call(|reply| Up::Echo { text, reply }).await.map(|answer| answer.len()) })
    };
    let mut asking: Vec<_> = (0..3).map(|_| ask(String::new())).collect();
    let mut replies = Vec::new();
    while replies.len() < 3 {
        let Some(Up::Echo { reply, .. }) = soon(primary.recv()).await else { panic!("a question was sent") };
        replies.push(reply);
    }
    let last = replies.pop().unwrap();
    // Neither is with the kernel before this task waits.
    replies.into_iter().for_each(|reply| reply.send("x".repeat(10 * MILLION)));
    assert!(!primary.core().congested.load(std::sync::atomic::Ordering::Relaxed));
    last.send("x".to_owned());
    assert_eq!(soon(asking.pop().unwrap()).await.unwrap(), Ok(1));
    assert!(!asking.iter().any(JoinHandle::is_finished));
    for large in asking {
        assert_eq!(soon(large).await.unwrap(), Ok(10 * MILLION));
    }
    assert_eq!(primary.core().outbox.lock().unwrap().unread_answers(), 0);
}

#[tokio::test]
async fn an_answer_that_is_too_large_leaves_the_caller_unanswered() {
    let (worker, primary, ..) = connected();
    let asking = tokio::spawn(async move { worker.call(|reply| Up::Echo { text: String::new(), reply }).await });
    let Some(Up::Echo { reply, .. }) = soon(primary.recv()).await else { panic!("a question was sent") };
    reply.send("x".repeat(17 << 20));
    assert_eq!(soon(asking).await.unwrap(), Err(CallError::Unanswered));
}

#[tokio::test]
async fn a_reply_works_after_the_lane_has_ended_by_doing_nothing() {
    let (worker, primary, _, primary_end) = connected();
    drop(worker.try_send(Up::Count(0)));
    {
        let mut asking = pin!(worker.call(Up::Total));
        assert!(poll_once(asking.as_mut()).is_pending());
    }
    worker.close();
    soon(primary_end).await.unwrap();
    assert_eq!(count(&primary).await, 0);
    let Some(Up::Total(reply)) = soon(primary.recv()).await else { panic!("a question was sent") };
    reply.send(1);
    assert!(soon(primary.recv()).await.is_none());
}
