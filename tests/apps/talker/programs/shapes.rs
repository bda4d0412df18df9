//! Values of every shape that serde knows, in a message of every shape that the derive knows.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cluster::{Event, Message, Primary, Worker, WorkerId};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::blob::Blob;
use crate::say;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    x: i32,
    y: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Marker;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Tree {
    Leaf,
    Node(Box<Self>, u16, Box<Self>),
}

impl Tree {
    fn of(depth: u16) -> Self {
        (0..depth).fold(Self::Leaf, |tree, depth| Self::Node(Box::new(tree), depth, Box::new(Self::Leaf)))
    }
}

#[derive(Clone, Debug, PartialEq, Message)]
pub(super) enum Shape<T>
where
    T: Serialize + DeserializeOwned + Send + 'static,
{
    Unit,
    NoParts(),
    NoFields {},
    Tuple(u8, i64, char, bool),
    Named {
        text: String,
        list: Vec<u8>,
        blob: Blob,
    },
    Nested(Point, Tree, Marker),
    Generic(T),
    Optional(Option<Box<T>>, Option<String>),
    Collections {
        texts: Vec<Option<String>>,
        map: HashMap<String, Vec<u32>>,
        sorted: BTreeMap<u16, ()>,
        array: [i8; 4],
        pair: (u128, i128),
    },
    #[serde(rename = "another")]
    Renamed {
        #[serde(rename = "x")]
        value: f32,
    },
    Skipped {
        kept: u8,
        #[serde(skip)]
        skipped: u8,
    },
    With(#[serde(with = "as_text")] u64),
    Foreign(Duration, SocketAddr, PathBuf, Result<u8, String>),
}

mod as_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        number.to_string().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn samples() -> Vec<Shape<Point>> {
    let point = Point { x: i32::MIN, y: -0.5 };
    vec![
        Shape::Unit,
        Shape::NoParts(),
        Shape::NoFields {},
        Shape::Tuple(u8::MAX, i64::MIN, '🦀', true),
        Shape::Named { text: "grüße\0\n".into(), list: (0..=255).collect(), blob: Blob::of(1000, 7) },
        Shape::Named { text: String::new(), list: Vec::new(), blob: Blob::of(0, 0) },
        Shape::Nested(point.clone(), Tree::of(100), Marker),
        Shape::Generic(point.clone()),
        Shape::Optional(Some(Box::new(point)), None),
        Shape::Optional(None, Some("text".into())),
        Shape::Collections {
            texts: vec![None, Some("a".into()), Some(String::new())],
            map: [("one".into(), vec![1]), ("none".into(), vec![]), ("many".into(), (0..300).collect())].into(),
            sorted: [(3, ()), (1, ()), (2, ())].into(),
            array: [-1, 0, 1, i8::MIN],
            pair: (u128::MAX, i128::MIN),
        },
        Shape::Renamed { value: f32::MAX },
        Shape::Skipped { kept: 1, skipped: 0 },
        Shape::With(u64::MAX),
        Shape::Foreign(Duration::from_nanos(1), ([127, 0, 0, 1], 80).into(), "/a/b".into(), Err("no".into())),
    ]
}

pub(super) async fn worker(worker: Worker<Shape<Point>, Shape<Point>>) -> cluster::Result {
    worker.ready();
    let too_deep = Shape::Nested(Point { x: 0, y: 0.0 }, Tree::of(1000), Marker);
    say(&worker, format_args!("nests too deep: {:?}", worker.send(too_deep).await));
    for sample in samples() {
        worker.send(sample).await?;
    }
    for sample in samples() {
        assert_eq!(worker.recv().await, Some(sample));
    }
    say(&worker, "all came back equal");
    worker.shutdown().await;
    Ok(())
}

/// Sends back what it gets.
pub(super) async fn primary(mut primary: Primary<Shape<Point>, Shape<Point>>) -> cluster::Result {
    let mut expected: HashMap<WorkerId, std::vec::IntoIter<Shape<Point>>> = HashMap::new();
    while let Some(event) = primary.next().await {
        if let Event::Message(id, shape) = event {
            assert_eq!(Some(&shape), expected.entry(id).or_insert_with(|| samples().into_iter()).next().as_ref());
            primary.send(id, shape).await?;
        }
    }
    Ok(())
}
