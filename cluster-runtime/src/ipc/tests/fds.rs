//! Descriptors in messages.

use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::super::frame::{MOST_FDS, PIECE};
use super::suspend::{resumed, turn};
use super::*;
use crate::os;

#[derive(Debug, Serialize, Deserialize)]
enum Carrying {
    Note(u64),
    One(u64, Fd<UnixStream>),
    Many(Vec<Fd<OwnedFd>>),
    Large { text: String, end: Option<Fd<UnixStream>> },
}

impl Message for Carrying {
    type Wire = Self;

    const NAME: &'static str = "Carrying";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum Carrying")
    }

    fn into_wire(self) -> Result<Self, ForwardedReply> {
        Ok(self)
    }

    fn from_wire(wire: Self, _: &Origin) -> Self {
        wire
    }
}

enum Asking {
    Open(Reply<Fd<File>>),
}

impl Message for Asking {
    type Wire = ReplyTag;

    const NAME: &'static str = "Asking";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum Asking")
    }

    fn into_wire(self) -> Result<ReplyTag, ForwardedReply> {
        let Self::Open(reply) = self;
        reply.into_tag()
    }

    fn from_wire(tag: ReplyTag, origin: &Origin) -> Self {
        Self::Open(origin.reply(tag))
    }
}

type Side = Lane<Carrying, Carrying>;

#[tokio::test]
async fn a_descriptor_arrives_and_works_although_the_senders_is_closed() {
    let (one, other) = joined();
    for (from, to) in [(&one, &other), (&other, &one)] {
        let (mut far, near) = UnixStream::pair().unwrap();
        from.send(Carrying::One(7, near.into())).await.unwrap();
        let Some(Carrying::One(7, near)) = soon(to.recv()).await else { panic!("one was expected") };
        near.into_inner().unwrap().write_all(b"through").unwrap();
        let mut text = String::new();
        // It ends, too: nobody else holds the near end any more.
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }
}

#[tokio::test]
async fn messages_with_and_without_descriptors_keep_their_order_and_each_has_its_own() {
    let (one, other) = joined();
    let taking = tokio::spawn(async move {
        for number in 0..1000 {
            match soon(other.recv()).await {
                Some(Carrying::Note(found)) => assert_eq!((found, number % 3 == 0), (number, false)),
                Some(Carrying::One(found, near)) => {
                    assert_eq!((found, number % 3 == 0), (number, true));
                    near.into_inner().unwrap().write_all(&number.to_le_bytes()).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    });
    let mut far_ends = Vec::new();
    for number in 0..1000 {
        if number % 3 == 0 {
            let (far, near) = UnixStream::pair().unwrap();
            far_ends.push((number, far));
            soon(one.send(Carrying::One(number, near.into()))).await.unwrap();
        } else {
            soon(one.send(Carrying::Note(number))).await.unwrap();
        }
    }
    soon(taking).await.unwrap();
    far_ends.into_iter().for_each(|(number, far)| expect_number(far, number));
}

#[tokio::test]
async fn a_large_message_has_its_descriptor_although_others_pass_between_its_pieces() {
    let (one, other): (Side, Side) = (lane(), lane());
    let (far_of_large, near) = UnixStream::pair().unwrap();
    let text = "x".repeat(5 * PIECE);
    one.try_send(Carrying::Large { text: text.clone(), end: Some(near.into()) }).unwrap();
    let (far_of_small, near) = UnixStream::pair().unwrap();
    one.try_send(Carrying::One(2, near.into())).unwrap();
    drive(&one, &other);
    let Some(Carrying::One(2, small)) = soon(other.recv()).await else { panic!("the small one was expected") };
    let Some(Carrying::Large { text: found, end }) = soon(other.recv()).await else {
        panic!("the large one was expected")
    };
    assert!(found == text);
    end.unwrap().into_inner().unwrap().write_all(&1_u64.to_le_bytes()).unwrap();
    small.into_inner().unwrap().write_all(&2_u64.to_le_bytes()).unwrap();
    expect_number(far_of_large, 1);
    expect_number(far_of_small, 2);
}

#[tokio::test]
async fn a_large_message_and_a_flood_of_descriptors_do_not_wait_for_each_other() {
    let (one, other): (Side, Side) = (lane(), lane());
    one.send(Carrying::Large { text: "x".repeat(3 * PIECE), end: None }).await.unwrap();
    for number in 0..30 {
        one.send(Carrying::One(number, Fd::new(UnixStream::pair().unwrap().0))).await.unwrap();
    }
    drive(&one, &other);
    let mut before = 0;
    while let Carrying::One(number, _) = soon(other.recv()).await.unwrap() {
        assert_eq!(number, before);
        before += 1;
    }
    // One with each of its four pieces.
    assert_eq!(before, 4);
}

#[tokio::test]
async fn an_answer_can_be_a_descriptor() {
    let (asker, answerer): (Lane<Asking, Carrying>, Lane<Carrying, Asking>) = (lane(), lane());
    drive(&asker, &answerer);
    tokio::spawn(async move {
        while let Some(Asking::Open(reply)) = answerer.recv().await {
            reply.send(Fd::new(scratch_file("answered")));
        }
    });
    for _ in 0..100 {
        let answer = soon(asker.call(Asking::Open)).await.unwrap();
        assert_eq!(text_of(answer.into_inner().unwrap()), "answered");
    }
    // Also one that is given before the question is sent.
    let answer = asker.call(|reply| {
        let (question, other) = reply::ask(asker.core());
        drop(question);
        reply.send(Fd::new(scratch_file("at once")));
        Asking::Open(other)
    });
    assert_eq!(text_of(soon(answer).await.unwrap().into_inner().unwrap()), "at once");
}

#[tokio::test]
async fn one_message_with_a_descriptor_can_go_to_many() {
    let pairs = [joined(), joined(), joined()];
    let encoded = Side::encode_once(Carrying::Many(vec![Fd::new(scratch_file("shared").into())]), LIMIT).unwrap();
    for (one, _) in &pairs {
        one.send_encoded(&encoded).await.unwrap();
    }
    drop(encoded);
    for (_, other) in &pairs {
        let Some(Carrying::Many(mut files)) = soon(other.recv()).await else { panic!("files were expected") };
        assert_eq!(text_of(files.remove(0).into_inner().unwrap().into()), "shared");
    }
}

#[tokio::test]
async fn so_many_wait_and_no_more_until_somebody_takes_them() {
    let (one, other) = joined();
    let message = |count| Carrying::Many((0..count).map(|_| Fd::new(scratch_file("").into())).collect());
    let mut sent = 0;
    while one.try_send(message(MOST_FDS)).is_ok() {
        sent += MOST_FDS;
    }
    assert!((48..=64).contains(&sent), "{sent}");
    while sent > 0 {
        let Some(Carrying::Many(files)) = soon(other.recv()).await else { panic!("files were expected") };
        sent -= files.len();
    }
    soon(one.send(message(MOST_FDS))).await.unwrap();
    let refused = one.send(message(MOST_FDS + 1)).await;
    assert_eq!(refused, Err(SendError::Encode("a message carries 16 descriptors at most".to_owned())));
    one.send(Carrying::Note(1)).await.unwrap();
}

#[test]
fn a_descriptor_is_encoded_for_messages_only() {
    assert!(codec::encode_state(&Fd::new(scratch_file(""))).is_err());
    assert!(codec::decode_state::<Fd<File>>(&codec::encode_state(&0_u8).unwrap()).is_err());
}

#[tokio::test]
async fn descriptors_go_on_in_another_program_wherever_they_are() {
    let (one, mut other): (Side, Side) = (lane(), lane());
    let mut far_ends = Vec::new();
    let mut send = |number: u64, filler: usize| {
        let (far, near) = UnixStream::pair().unwrap();
        let text = format!("{number} {}", "x".repeat(filler));
        one.try_send(Carrying::Large { text, end: Some(near.into()) }).unwrap();
        far_ends.push((number, far));
    };
    // More than the socket takes, so that some are with the kernel, some with neither, and one is cut.
    (0..10).for_each(|number| send(number, 30_000));
    send(10, 3 * PIECE);
    let (mut near_socket, mut far_socket) = UnixStream::pair().unwrap();
    let mut sender = one.clone();
    let mut found = Vec::new();
    while found.len() < far_ends.len() {
        let mut driving = [Box::pin(sender.drive(near_socket)), Box::pin(other.drive(far_socket))];
        for turns in 0..6 {
            _ = poll_once_in_runtime(driving[turns % 2].as_mut()).await;
            turn().await;
        }
        let [near, far] = &mut driving;
        let (sending, taking) = tokio::join!(suspend(&sender, near), suspend(&other, far));
        (sender, near_socket) = sending;
        (other, far_socket) = taking;
        // At least one is taken from what was carried over.
        if let Received::Message(Carrying::Large { text, end }) = other.try_recv() {
            let number: u64 = text.split_once(' ').unwrap().0.parse().unwrap();
            end.unwrap().into_inner().unwrap().write_all(&number.to_le_bytes()).unwrap();
            found.push(number);
        }
    }
    assert_eq!(found, (0..=10).collect::<Vec<_>>());
    far_ends.into_iter().for_each(|(number, far)| expect_number(far, number));
}

#[tokio::test]
async fn a_peer_that_sends_descriptors_that_belong_to_nothing_loses_the_lane_and_none_is_kept() {
    let file = scratch_file("");
    let note = encoded_note();
    let with = |count: u8| {
        let body = [&note[5..], &[count]].concat();
        [&(1 + body.len() as u32).to_le_bytes()[..], &[7], &body].concat()
    };
    /// Bytes, and how many descriptors with them.
    type Writes = Vec<(Vec<u8>, usize)>;
    let cases: [(&str, Writes); 6] = [
        ("none although it says one", vec![(with(1), 0)]),
        ("two although it says one", vec![(with(1), 2)]),
        ("none and it says so", vec![(with(0), 0)]),
        ("one beside each message that needs none", (0..3).map(|_| (note.clone(), 1)).collect()),
        ("too many at once", vec![(with(17), 17)]),
        ("more than the window has room for", (0..5).map(|_| (with(16), 16)).collect()),
    ];
    for (case, stream) in cases {
        let side: Side = lane();
        let (socket, peer) = UnixStream::pair().unwrap();
        let end = tokio::spawn(side.drive(socket));
        for (bytes, count) in stream {
            let fds = vec![file.as_fd(); count];
            // A lane that has ended takes no more.
            _ = if count == 0 {
                (&peer).write(&bytes)
            } else {
                os::send_stream(peer.as_fd(), &[IoSlice::new(&bytes)], &fds)
            };
        }
        assert!(matches!(soon(end).await.unwrap(), LaneEnd::Violation(_)), "{case}");
        drop((side, peer));
        assert_eq!(holders_of(&file), 1, "{case}");
    }
}

#[tokio::test]
async fn what_names_a_descriptor_that_it_does_not_carry_ends_the_lane() {
    let side: Side = lane();
    let (socket, peer) = UnixStream::pair().unwrap();
    let end = tokio::spawn(side.drive(socket));
    let mut front = [0; 128];
    let mut frame = FrameBuf::message(&mut front, LIMIT);
    // The third of one.
    codec::encode(&(1_u32, 5_u64, 2_u8), &mut frame).unwrap();
    let frame = frame.finish_with(vec![Arc::new(scratch_file("").into())]).unwrap();
    os::send_stream(peer.as_fd(), &[IoSlice::new(&bytes_of(frame))], &[scratch_file("").as_fd()]).unwrap();
    assert!(soon(side.recv()).await.is_none());
    let LaneEnd::Violation(text) = soon(end).await.unwrap() else { panic!("a violation was expected") };
    assert!(text.contains("cannot be decoded"), "{text}");
}

#[test]
fn a_descriptor_that_was_lost_says_so_when_it_is_taken() {
    let payload = codec::encode_state(&0_u8).unwrap();
    let lost: Fd<File> = fd::unpack(Some(fd::Parcel::new(Vec::new(), true)), || codec::decode(&payload)).unwrap();
    assert_eq!(format!("{lost:?}"), "Fd(lost)");
    assert_eq!(lost.into_inner().unwrap_err().raw_os_error(), Some(libc::EMFILE));
}

#[tokio::test]
async fn what_is_never_taken_is_closed_with_the_lane() {
    let file = scratch_file("");
    let (one, other) = joined();
    for _ in 0..10 {
        one.send(Carrying::Many(vec![Fd::new(file.as_fd().try_clone_to_owned().unwrap())])).await.unwrap();
    }
    soon(one.flush()).await;
    until(|| holders_of(&file) == 11).await;
    one.close();
    soon(async { while other.recv().await.is_some() {} }).await;
    drop((one, other));
    until(|| holders_of(&file) == 1).await;
    // And so is what was to be sent on a lane that nobody has driven.
    let undriven: Side = lane();
    undriven.try_send(Carrying::Many(vec![Fd::new(file.as_fd().try_clone_to_owned().unwrap())])).unwrap();
    drop(undriven);
    assert_eq!(holders_of(&file), 1);
}

fn joined() -> (Side, Side) {
    let (one, other) = (lane(), lane());
    drive(&one, &other);
    (one, other)
}

fn drive<A: Message, B: Message>(one: &Lane<A, B>, other: &Lane<B, A>) {
    let (near, far) = UnixStream::pair().unwrap();
    tokio::spawn(one.drive(near));
    tokio::spawn(other.drive(far));
}

/// The lane in another program, whose descriptors have been numbers.
async fn suspend(side: &Side, driving: &mut (impl Future<Output = LaneEnd> + Unpin)) -> (Side, UnixStream) {
    let (suspended, end) = tokio::join!(side.suspend(Duration::from_secs(60)), driving);
    assert_eq!(end, LaneEnd::Suspended);
    let (suspended, socket) = suspended.unwrap();
    (resumed(&suspended), socket.unwrap())
}

async fn poll_once_in_runtime<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

fn encoded_note() -> Vec<u8> {
    message_frame(&encoded(&Carrying::Note(1)))
}

fn expect_number(mut far: UnixStream, number: u64) {
    let mut bytes = [0; 8];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), number);
}

/// A file without a name, from whose beginning the text can be read.
fn scratch_file(text: &str) -> File {
    let fd = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn text_of(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// How many descriptors of this process are this open file.
fn holders_of(file: &File) -> usize {
    let link = |number: &str| std::fs::metadata(format!("/proc/self/fd/{number}")).ok();
    let inode = |metadata: std::fs::Metadata| {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino())
    };
    let ours = inode(link(&file.as_raw_fd().to_string()).unwrap());
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let names = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| link(&name)).filter(|metadata| inode(metadata.clone()) == ours).count()
}
