//! What the codec refuses besides bytes: too deep, and too many.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};

use serde::de::DeserializeOwned;

use super::super::codec::decode;
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

#[test]
fn a_value_nested_a_million_deep_is_an_error() {
    refuses_a_million::<List>(&variant(1));
    refuses_a_million::<List>(&[variant(2), vec![9]].concat());
    refuses_a_million::<List>(&variant(3));
    refuses_a_million::<Chain>(&[1]);
    refuses_a_million::<Nest>(&[length(1), vec![1]].concat());
    refuses_a_million::<Tree>(&[vec![9], length(1), vec![9]].concat());
    refuses_a_million::<Twins>(&[vec![9], length(1)].concat());
    assert_eq!(decode::<Endless>(&[]), too_deep());
}

#[test]
fn a_hundred_levels_pass_and_the_line_is_the_same_for_sender_and_receiver() {
    let end = || List::End;
    assert_eq!(most(end, |next| List::Next(Box::new(next)), &variant(1), &variant(0)), 127);
    let item = [variant(2), vec![9]].concat();
    assert_eq!(most(end, |next| List::Item(9, Box::new(next)), &item, &variant(0)), 127);
    assert_eq!(most(end, |next| List::Named { next: Box::new(next) }, &variant(3), &variant(0)), 127);
    // Two levels each from here on, or three.
    assert_eq!(most(|| Chain { next: None }, |next| Chain { next: Some(Box::new(next)) }, &[1], &[0]), 63);
    let nest = [length(1), vec![1]].concat();
    assert_eq!(most(|| Nest(Vec::new()), |next| Nest(vec![Some(next)]), &nest, &length(0)), 42);
    let tree = [vec![9], length(1), vec![9]].concat();
    let leaf = [vec![9], length(0)].concat();
    assert_eq!(most(|| Tree(9, BTreeMap::new()), |next| Tree(9, BTreeMap::from([(9, next)])), &tree, &leaf), 63);
    let twins = [vec![9], length(1)].concat();
    assert_eq!(most(|| Twins((9, Vec::new())), |next| Twins((9, vec![next])), &twins, &leaf), 41);
}

#[test]
fn elements_that_take_no_bytes_do_not_keep_the_receiver_busy() {
    let endless = length(u64::MAX / 2);
    assert_eq!(decode::<Vec<()>>(&endless), too_many());
    assert_eq!(decode::<BTreeMap<(), ()>>(&endless), too_many());
    assert_eq!(decode::<Vec<(Unit, [(); 3])>>(&endless), too_many());
    let often = [10, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000];
    let often: Vec<u8> = often.into_iter().flat_map(length).collect();
    assert_eq!(decode::<Vec<Vec<()>>>(&often), too_many());
}

#[test]
fn some_elements_without_bytes_pass_and_what_the_receiver_refuses_is_not_sent() {
    assert_eq!(decode(&encoded(&vec![(); 4000])), Ok(vec![(); 4000]));
    assert_eq!(decode(&encoded(&vec![Unit; 3])), Ok(vec![Unit; 3]));
    for elements in 4000..4200 {
        let received = decode::<Vec<()>>(&length(elements as u64));
        assert_eq!(try_encode(&vec![(); elements]).is_ok(), received.is_ok(), "{elements} elements");
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
    assert_eq!(encoded(&address), [variant(0), vec![1, 2, 3, 4]].concat());
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

/// What a variant begins with.
fn variant(index: u32) -> Vec<u8> {
    encoded(&index)
}

/// What a sequence or a map begins with.
fn length(elements: u64) -> Vec<u8> {
    encoded(&elements)
}
