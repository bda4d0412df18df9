//! What a message takes in memory is bounded by its bytes, whatever its type makes of them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::io::Write as _;
use std::mem::size_of;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use serde::Deserializer;
use serde::de::DeserializeOwned;

use super::super::codec::{decode, decode_expanding, decode_state, encode_state};
use super::super::depth::ALWAYS_ALLOWED;
use super::*;
use crate::fuzz::{Random, fuzz};

/// Large in memory, and small on the wire if it holds little.
#[expect(clippy::large_enum_variant, clippy::vec_box, reason = "what users write all the same")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Wide {
    Small,
    Large([u64; 32]),
    Text(String),
    Boxed(Box<Self>),
    Maybe(Option<Box<Self>>),
    Twins(Box<(Self, Self)>),
    Pair { one: Box<Self>, other: Box<Self> },
    Many(Vec<Self>),
    Nested(Vec<Vec<Box<Self>>>),
    Slice(Box<[Self]>),
    Queue(VecDeque<Option<Self>>),
    Table(BTreeMap<u16, Self>),
    Keys(BTreeMap<(u8, [Option<u64>; 16]), ()>),
}

#[test]
fn elements_count_as_much_as_they_take() {
    let size = size_of::<Wide>();
    most_that_pass(size, |count| vec![Wide::Small; count]);
    most_that_pass(size_of::<Option<Wide>>(), |count| VecDeque::from(vec![None::<Wide>; count]));
    most_that_pass(size_of::<(u32, Wide)>().max(4 + size), |count| {
        (0..count as u32).map(|key| (key, Wide::Small)).collect::<Vec<_>>()
    });
    most_that_pass(size, |count| vec![Wide::Small; count].into_boxed_slice());
    most_that_pass(size_of::<Option<[u64; 32]>>(), |count| vec![None::<[u64; 32]>; count]);
}

#[test]
fn keys_and_values_of_maps_count() {
    most_that_pass(size_of::<u32>() + size_of::<Wide>(), |count| {
        (0..count as u32).map(|key| (key, Wide::Small)).collect::<BTreeMap<_, _>>()
    });
    most_that_pass(size_of::<u32>() + size_of::<Wide>(), |count| {
        (0..count as u32).map(|key| (key, Wide::Small)).collect::<HashMap<_, _>>()
    });
    most_that_pass(size_of::<(u32, Option<[u64; 16]>)>(), |count| {
        (0..count as u32).map(|key| ((key, None::<[u64; 16]>), ())).collect::<BTreeMap<_, _>>()
    });
    most_that_pass(size_of::<(u32, Option<[u64; 16]>)>(), |count| {
        (0..count as u32).map(|key| (key, None::<[u64; 16]>)).collect::<BTreeSet<_>>()
    });
}

/// What is in a box does not show in the size of the element.
#[test]
fn what_is_in_a_box_counts() {
    let boxed = size_of::<Box<Wide>>() + size_of::<Wide>();
    most_that_pass(boxed, |count| vec![Box::new(Wide::Small); count]);
    most_that_pass(boxed, |count| vec![Some(Box::new(Wide::Small)); count]);
    most_that_pass(size_of::<Box<u8>>() + size_of::<(Wide, Wide)>(), |count| {
        vec![Box::new((Wide::Small, Wide::Small)); count]
    });
    most_that_pass(2 * size_of::<Wide>(), |count| vec![Wide::Boxed(Box::new(Wide::Small)); count]);
    most_that_pass(3 * size_of::<Wide>(), |count| {
        vec![Wide::Pair { one: Box::new(Wide::Small), other: Box::new(Wide::Small) }; count]
    });
    most_that_pass(size_of::<Box<u8>>() + size_of::<Vec<()>>() + size_of::<Wide>(), |count| {
        vec![Box::new(vec![Wide::Small]); count]
    });
}

/// A tree in boxes has no sequence in it.
#[test]
fn a_tree_of_boxes_counts() {
    fn tree(levels: u32) -> Wide {
        if levels == 0 { Wide::Small } else { Wide::Twins(Box::new((tree(levels - 1), tree(levels - 1)))) }
    }
    assert_eq!(decode(&encoded(&tree(10))), Ok(tree(10)));
    assert_eq!(decode::<Wide>(&encoded(&tree(14))), too_large(encoded(&tree(14)).len()));
}

/// Room for all is not made before, and none of them is made.
#[test]
fn what_takes_too_much_is_refused_before_its_first_element_is_made() {
    let bytes = [length(4_000_000), vec![0; 4_000_000]].concat();
    assert_eq!(decode::<Vec<Counted>>(&bytes), too_large(bytes.len()));
    assert_eq!(MADE.get(), 0);
    assert_eq!(
        decode::<Vec<Vec<Counted>>>(&[length(1), bytes.clone()].concat()),
        too_large(bytes.len() + length(1).len())
    );
    assert_eq!(MADE.get(), 0);
}

thread_local! {
    static MADE: Cell<usize> = const { Cell::new(0) };
}

#[derive(Debug, PartialEq)]
struct Counted([u64; 32]);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        MADE.set(MADE.get() + 1);
        u8::deserialize(deserializer).map(|byte| Self([byte.into(); 32]))
    }
}

/// One budget for the whole message, however it is cut into collections.
#[test]
fn many_small_collections_count_together() {
    let lists = |count| vec![vec![Wide::Small; 10]; count];
    let per_list = size_of::<Vec<Wide>>() + 10 * size_of::<Wide>();
    let most = ALWAYS_ALLOWED / per_list;
    assert_eq!(decode(&encoded(&lists(most))), Ok(lists(most)));
    assert_eq!(decode::<Vec<Vec<Wide>>>(&encoded(&lists(most + 1))), too_large(encoded(&lists(most + 1)).len()));
}

/// Several times what is always allowed.
const MANY: usize = 80_000;

#[test]
fn honest_messages_of_any_length_pass_at_the_default() {
    passes(&vec![None::<u64>; 2 * MANY]);
    passes(&vec![Some(7_u64); 2 * MANY]);
    passes(&vec![0_u64; 2 * MANY]);
    passes(&vec![false; 2 * MANY]);
    passes(&vec![(1_u8, 2_u16, 'c'); MANY]);
    passes(&(0..MANY as u32).map(|key| (key, u64::from(key))).collect::<HashMap<_, _>>());
    passes(&(0..MANY as u32).map(|key| (format!("{key:02}"), format!("{key:02}"))).collect::<BTreeMap<_, _>>());
    passes(&(0..MANY).map(|number| number.to_string()).collect::<Vec<_>>());
    passes(&vec![vec![1_u16, 2, 3]; MANY]);
    passes(&vec![SocketAddr::from(([127, 0, 0, 1], 80)); MANY]);
    passes(&vec![(SystemTime::UNIX_EPOCH, Duration::from_millis(1)); MANY]);
    passes(&vec![Wide::Large([u64::MAX; 32]); 20_000]);
    passes(&vec![Rc::new((1_u32, "text".to_owned())).as_ref().clone(); MANY]);
}

/// A `String` is 24 bytes however short; postcard needs one of them for an empty one.
#[test]
fn empty_texts_and_lists_pass_up_to_what_is_always_allowed() {
    passes(&vec![String::new(); ALWAYS_ALLOWED / 24]);
    passes(&vec![Vec::<Wide>::new(); ALWAYS_ALLOWED / 24]);
    passes(&vec![Box::<str>::from(""); ALWAYS_ALLOWED / 24]);
    passes(&vec![Box::<[u8]>::default(); ALWAYS_ALLOWED / 24]);
}

#[test]
fn a_higher_limit_lets_more_pass_and_a_lower_one_less() {
    let value = vec![Wide::Small; 20_000];
    let bytes = encoded(&value);
    let needed = (20_000 * size_of::<Wide>()).div_ceil(bytes.len()) as u32;
    assert!(decode::<Vec<Wide>>(&bytes).is_err());
    assert_eq!(decode_expanding(&bytes, Expansion::new(needed)), Ok(value));
    assert!(decode_expanding::<Vec<Wide>>(&bytes, Expansion::new(needed - 1)).is_err());
    let numbers = encoded(&vec![u64::MAX; MILLION]);
    assert!(decode_expanding::<Vec<u64>>(&numbers, Expansion::new(1)).is_ok());
    assert!(decode_expanding::<Vec<(u64, [(); 4])>>(&numbers, Expansion::new(1)).is_ok());
}

/// It is of this program's own making.
#[test]
fn state_is_not_bounded_in_memory() {
    let value = vec![Wide::Small; 20_000];
    assert_eq!(decode_state(&encode_state(&value).unwrap()), Ok(value));
}

#[tokio::test]
async fn a_message_that_takes_too_much_ends_the_lane_and_says_what_to_do() {
    let message = || TalkWire::All(vec![Wide::Small; 10_000]);
    let (_peer, lane, end) = having_received(&message(), LIMITS);
    assert!(soon(lane.recv()).await.is_none());
    let Ok(LaneEnd::Violation(text)) = soon(end).await else { panic!("a violation was expected") };
    let bytes = encoded(&message()).len();
    let told =
        format!("a message of type Talk cannot be decoded: it takes more memory than 16 times its {bytes} bytes; ");
    assert!(text.starts_with(&told), "{text}");
    assert!(text.contains("raise max_expansion (CLUSTER_MAX_EXPANSION)"), "{text}");
}

#[tokio::test]
async fn what_a_lane_allows_is_what_its_receiver_is_set_to() {
    let all = vec![Wide::Small; 10_000];
    let limits = Limits { expansion: Expansion::new(1000), ..LIMITS };
    let (_peer, lane, _end) = having_received(&TalkWire::All(all.clone()), limits);
    assert!(matches!(soon(lane.recv()).await, Some(Talk::All(received)) if received == all));
}

#[tokio::test]
async fn an_answer_and_an_item_that_take_too_much_are_errors_where_they_are_received() {
    let (asking, answering) = both_ends();
    let asked = tokio::spawn(async move { asking.call(Talk::Ask).await });
    let Some(Talk::Ask(reply)) = soon(answering.recv()).await else { panic!("a question was expected") };
    reply.send(vec![Wide::Small; 10_000]);
    refused_for_its_memory(soon(asked).await.unwrap());

    let (asking, answering) = both_ends();
    let mut items = asking.stream(Talk::Stream).await.unwrap();
    let Some(Talk::Stream(replies)) = soon(answering.recv()).await else { panic!("a question was expected") };
    soon(replies.send(vec![Wide::Small; 10_000])).await.unwrap();
    refused_for_its_memory(soon(items.next()).await);
}

#[track_caller]
fn refused_for_its_memory<T: Debug>(received: Result<T, CallError>) {
    let Err(CallError::Malformed(text)) = received else { panic!("{received:?}") };
    assert!(text.starts_with("it takes more memory than 16 times its "), "{text}");
}

/// Whatever bytes make of it, a value takes no more than they allow.
#[test]
fn fuzz_memory() {
    fuzz("ipc::tests::memory::fuzz_memory", |random| {
        let mut left = 1 + random.below(4000);
        let mut bytes = encoded(&any_wide(random, 8, &mut left));
        if random.once_in(2) {
            random.damage(&mut bytes);
        }
        let expansion = 1 + random.below(40);
        let Ok(value) = decode_expanding::<Wide>(&bytes, Expansion::new(expansion as u32)) else { return };
        let most = ALWAYS_ALLOWED.max(expansion * bytes.len()) + bytes.len();
        let taken = heap(&value);
        assert!(taken <= most, "{taken} bytes of memory for {} bytes and {expansion} times as much", bytes.len());
    });
}

fn any_wide(random: &mut Random, levels: usize, left: &mut usize) -> Wide {
    *left = left.saturating_sub(1);
    if levels == 0 || *left == 0 {
        return Wide::Small;
    }
    let count = if random.once_in(3) { random.below(200) } else { random.below(6) };
    let mut one = || any_wide(random, levels - 1, left);
    match count % 13 {
        0 => Wide::Large([7; 32]),
        1 => Wide::Text("x".repeat(count)),
        2 => Wide::Boxed(Box::new(one())),
        3 => Wide::Maybe(Some(Box::new(one()))),
        4 => Wide::Twins(Box::new((one(), one()))),
        5 => Wide::Pair { one: Box::new(one()), other: Box::new(one()) },
        6 => Wide::Many((0..count).map(|_| one()).collect()),
        7 => Wide::Nested((0..count).map(|_| vec![Box::new(one())]).collect()),
        8 => Wide::Slice((0..count).map(|_| one()).collect()),
        9 => Wide::Queue((0..count).map(|_| Some(one())).collect()),
        10 => Wide::Table((0..count as u16).map(|key| (key, one())).collect()),
        11 => Wide::Keys((0..count as u8).map(|key| ((key, [None; 16]), ())).collect()),
        _ => Wide::Many(vec![Wide::Small; count * 100]),
    }
}

/// What a value has besides itself; of a collection its elements.
fn heap(value: &Wide) -> usize {
    let each = |count: usize, size: usize| count * size;
    match value {
        Wide::Small | Wide::Large(_) | Wide::Maybe(None) => 0,
        Wide::Text(text) => text.capacity(),
        Wide::Boxed(inner) | Wide::Maybe(Some(inner)) => size_of::<Wide>() + heap(inner),
        Wide::Twins(twins) => 2 * size_of::<Wide>() + heap(&twins.0) + heap(&twins.1),
        Wide::Pair { one, other } => 2 * size_of::<Wide>() + heap(one) + heap(other),
        Wide::Many(all) => each(all.len(), size_of::<Wide>()) + all.iter().map(heap).sum::<usize>(),
        Wide::Slice(all) => each(all.len(), size_of::<Wide>()) + all.iter().map(heap).sum::<usize>(),
        Wide::Nested(all) => {
            let inner = all.iter().flatten().map(|one| size_of::<Box<Wide>>() + size_of::<Wide>() + heap(one));
            each(all.len(), size_of::<Vec<Box<Wide>>>()) + inner.sum::<usize>()
        }
        Wide::Queue(all) => each(all.len(), size_of::<Option<Wide>>()) + all.iter().flatten().map(heap).sum::<usize>(),
        Wide::Table(all) => all.values().map(|one| size_of::<u16>() + size_of::<Wide>() + heap(one)).sum(),
        Wide::Keys(all) => each(all.len(), size_of::<(u8, [Option<u64>; 16])>()),
    }
}

/// So many elements pass as the budget has room for at this size, and not one more.
#[track_caller]
fn most_that_pass<T>(size: usize, value: impl Fn(usize) -> T)
where
    T: Serialize + DeserializeOwned + Debug + PartialEq,
{
    let most = ALWAYS_ALLOWED / size;
    assert!(encoded(&value(most)).len() * 16 < ALWAYS_ALLOWED, "or this would be about something else");
    assert_eq!(decode(&encoded(&value(most))), Ok(value(most)));
    let more = encoded(&value(most + 1));
    assert_eq!(decode::<T>(&more), too_large(more.len()));
}

#[track_caller]
fn passes<T: Serialize + DeserializeOwned + PartialEq>(value: &T) {
    match decode::<T>(&encoded(value)) {
        Ok(decoded) => assert!(decoded == *value),
        Err(error) => panic!("{error}"),
    }
}

fn too_large<T>(bytes: usize) -> Result<T, String> {
    Err(format!(
        "it takes more memory than 16 times its {bytes} bytes; send less at once, box what is large and rare in its types, or \
         raise max_expansion (CLUSTER_MAX_EXPANSION) where it is received"
    ))
}

fn length(elements: u64) -> Vec<u8> {
    encoded(&elements)
}

#[derive(Debug)]
enum Talk {
    All(Vec<Wide>),
    Ask(Reply<Vec<Wide>>),
    Stream(Replies<Vec<Wide>>),
}

#[derive(Serialize, Deserialize)]
enum TalkWire {
    All(Vec<Wide>),
    Ask(ReplyTag),
    Stream(ReplyTag),
}

impl Message for Talk {
    type Wire = TalkWire;

    const NAME: &'static str = "Talk";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum Talk")
    }

    fn into_wire(self) -> Result<TalkWire, ForwardedReply> {
        Ok(match self {
            Self::All(all) => TalkWire::All(all),
            Self::Ask(reply) => TalkWire::Ask(reply.into_tag()?),
            Self::Stream(replies) => TalkWire::Stream(replies.into_tag()?),
        })
    }

    fn from_wire(wire: TalkWire, origin: &Origin) -> Self {
        match wire {
            TalkWire::All(all) => Self::All(all),
            TalkWire::Ask(tag) => Self::Ask(origin.reply(tag)),
            TalkWire::Stream(tag) => Self::Stream(origin.replies(tag)),
        }
    }
}

type Side = Lane<Talk, Talk>;

/// A lane whose peer is a bare socket that has sent this message.
fn having_received(message: &TalkWire, limits: Limits) -> (UnixStream, Side, JoinHandle<LaneEnd>) {
    let lane = Lane::new(limits, Arc::default());
    let (one, mut peer) = UnixStream::pair().unwrap();
    let end = tokio::spawn(lane.drive(one));
    peer.write_all(&message_frame(&encoded(message))).unwrap();
    (peer, lane, end)
}

fn both_ends() -> (Side, Side) {
    let (one, other) = UnixStream::pair().unwrap();
    [one, other]
        .map(|socket| {
            let lane = Lane::new(LIMITS, Arc::default());
            tokio::spawn(lane.drive(socket));
            lane
        })
        .into()
}
