//! What the codec refuses besides bytes: too deep, and too many.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};

use serde::de::DeserializeOwned;

use super::super::codec::{decode, encode};
use super::*;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chain {
    next: Option<Box<Self>>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Nest(Vec<Option<Self>>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tree(u8, BTreeMap<u8, Self>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Twins((u8, Vec<Self>));

/// No value of it exists, and none of its levels takes a byte.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Endless(Box<Self>);

const ONE: u64 = 1;

#[test]
fn a_value_nested_a_million_deep_is_an_error() {
    refuses_a_million::<List>(&[1, 0, 0, 0]);
    refuses_a_million::<List>(&[2, 0, 0, 0, 9]);
    refuses_a_million::<List>(&[3, 0, 0, 0]);
    refuses_a_million::<Chain>(&[1]);
    refuses_a_million::<Nest>(&[&ONE.to_le_bytes()[..], &[1]].concat());
    refuses_a_million::<Tree>(&[&[9], &ONE.to_le_bytes()[..], &[9]].concat());
    refuses_a_million::<Twins>(&[&[9], &ONE.to_le_bytes()[..]].concat());
    assert_eq!(decode::<Endless>(&[]), too_deep());
}

#[test]
fn a_hundred_levels_pass_and_the_line_is_the_same_for_sender_and_receiver() {
    let nothing = 0_u64.to_le_bytes();
    let one = ONE.to_le_bytes();
    let end = || List::End;
    assert_eq!(most(end, |next| List::Next(Box::new(next)), &[1, 0, 0, 0], &[0; 4]), 127);
    assert_eq!(most(end, |next| List::Item(9, Box::new(next)), &[2, 0, 0, 0, 9], &[0; 4]), 127);
    assert_eq!(most(end, |next| List::Named { next: Box::new(next) }, &[3, 0, 0, 0], &[0; 4]), 127);
    // Two levels each from here on, or three.
    assert_eq!(most(|| Chain { next: None }, |next| Chain { next: Some(Box::new(next)) }, &[1], &[0]), 63);
    let nest = [&one[..], &[1]].concat();
    assert_eq!(most(|| Nest(Vec::new()), |next| Nest(vec![Some(next)]), &nest, &nothing), 42);
    let tree = [&[9], &one[..], &[9]].concat();
    let leaf = [&[9], &nothing[..]].concat();
    assert_eq!(most(|| Tree(9, BTreeMap::new()), |next| Tree(9, BTreeMap::from([(9, next)])), &tree, &leaf), 63);
    let twins = [&[9], &one[..]].concat();
    assert_eq!(most(|| Twins((9, Vec::new())), |next| Twins((9, vec![next])), &twins, &leaf), 41);
}

#[test]
fn elements_that_take_no_bytes_do_not_keep_the_receiver_busy() {
    let endless = (u64::MAX / 2).to_le_bytes();
    assert_eq!(decode::<Vec<()>>(&endless), too_many());
    assert_eq!(decode::<BTreeMap<(), ()>>(&endless), too_many());
    assert_eq!(decode::<Vec<(Unit, [(); 3])>>(&endless), too_many());
    let often = [10_u64, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000];
    let often: Vec<u8> = often.into_iter().flat_map(u64::to_le_bytes).collect();
    assert_eq!(decode::<Vec<Vec<()>>>(&often), too_many());
}

#[test]
fn some_elements_without_bytes_pass_and_what_the_receiver_refuses_is_not_sent() {
    assert_eq!(decode(&encoded(&vec![(); 4000])), Ok(vec![(); 4000]));
    assert_eq!(decode(&encoded(&vec![Unit; 3])), Ok(vec![Unit; 3]));
    for length in 4000..4200 {
        let received = decode::<Vec<()>>(&(length as u64).to_le_bytes());
        assert_eq!(try_encode(&vec![(); length]).is_ok(), received.is_ok(), "{length} elements");
    }
    assert_eq!(try_encode(&vec![(); 4200]), too_many());
}

#[test]
fn elements_of_one_byte_pass_in_any_number() {
    let bytes = vec![vec![vec![7_u8; 1000]; 10]; 100];
    assert_eq!(decode(&encoded(&bytes)), Ok(bytes));
    let options = vec![None::<u64>; MILLION];
    assert_eq!(decode(&encoded(&options)), Ok(options));
}

#[test]
fn every_kind_of_value_passes_through_the_bounds() {
    passes((true, -1_i8, -2_i16, -3_i32, -4_i64, -5_i128));
    passes((1_u8, 2_u16, 3_u32, 4_u64, 5_u128, 0.5_f32, -0.5_f64));
    passes(('ü', "text".to_owned(), Some(Unit), None::<Unit>, ()));
    passes((Chain { next: None }, Tree(1, BTreeMap::new()), BTreeMap::from([("key".to_owned(), [1_u16; 4])])));
    passes([List::End, List::Next(Box::new(List::End)), List::Item(1, Box::new(List::End))]);
    passes((List::Named { next: Box::new(List::End) }, Ok::<u8, String>(1), Duration::from_millis(1)));
}

#[test]
fn the_encoding_is_not_for_people() {
    let address = IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4));
    assert_eq!(encoded(&address), [0, 0, 0, 0, 1, 2, 3, 4]);
    passes(address);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unit;

fn too_deep<T>() -> Result<T, String> {
    Err("values are nested deeper than 128 levels".to_owned())
}

fn too_many<T>() -> Result<T, String> {
    Err("more elements than the bytes can hold".to_owned())
}

fn refuses_a_million<T: DeserializeOwned + Debug + PartialEq>(level: &[u8]) {
    assert_eq!(decode::<T>(&level.repeat(MILLION)), too_deep());
}

/// How often `last` can be wrapped into another. What cannot be encoded must not be decodable either.
fn most<T>(last: impl Fn() -> T, wrap: impl Fn(T) -> T, level: &[u8], end: &[u8]) -> usize
where
    T: Serialize + DeserializeOwned + Debug + PartialEq,
{
    let value = |levels| (0..levels).fold(last(), |inner, _| wrap(inner));
    let bytes = |levels| [&level.repeat(levels), end].concat();
    let most = (0..200).take_while(|&levels| try_encode(&value(levels)).is_ok()).count() - 1;
    for levels in 0..200 {
        if levels <= most {
            assert_eq!(try_encode(&value(levels)), Ok(bytes(levels)));
            assert_eq!(decode(&bytes(levels)), Ok(value(levels)));
        } else {
            assert_eq!(try_encode(&value(levels)), too_deep());
            assert_eq!(decode::<T>(&bytes(levels)), too_deep());
        }
    }
    most
}

fn passes<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: T) {
    assert_eq!(decode(&encoded(&value)), Ok(value));
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    try_encode(value).unwrap()
}

fn try_encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    encode(value, |piece| bytes.extend_from_slice(piece)).map(|()| bytes)
}
