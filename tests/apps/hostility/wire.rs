//! Packets and letters by hand: in a packet first the protocol and the number of descriptors, then variants and integers, little-endian, of fixed width or of as many times seven bits as it takes.

/// The first byte of every packet on the control lane. Its highest bit names the codec.
pub(crate) const PROTOCOL: u8 = if POSTCARD { 6 | 0x80 } else { 6 };

/// As the library was built.
const POSTCARD: bool = cfg!(all(feature = "postcard", not(feature = "bincode")));

pub(crate) fn ready() -> Vec<u8> {
    packet(2, &[])
}

pub(crate) fn leaving() -> Vec<u8> {
    packet(3, &[])
}

pub(crate) fn drained(port: u64) -> Vec<u8> {
    packet(4, &[number(port)])
}

pub(crate) fn peer(slot: u64, worker: u64) -> Vec<u8> {
    packet(5, &[number(slot), number(worker)])
}

pub(crate) fn listen(request: u64, ordinal: u32) -> Vec<u8> {
    let localhost = [variant(0), variant(0), vec![127, 0, 0, 1], integer(0, 2)].concat();
    let no_http_and_none_of_the_seven_options = vec![0; 8];
    packet(1, &[number(request), localhost, integer(ordinal.into(), 4), no_http_and_none_of_the_seven_options])
}

/// A letter with connections for `port`, counted by the worker `tag`, which `count` descriptors are to go with.
pub(crate) fn letter(port: u64, tag: u32, count: u64) -> Vec<u8> {
    let client = [variant(0), variant(0), vec![127, 0, 0, 1], integer(9, 2)].concat();
    let cover = [number(port), integer(tag.into(), 4), vec![0]].concat();
    [cover, number(count), client.repeat(count as usize)].concat()
}

fn packet(kind: u32, fields: &[Vec<u8>]) -> Vec<u8> {
    [vec![PROTOCOL, 0], variant(kind), fields.concat()].concat()
}

fn variant(index: u32) -> Vec<u8> {
    integer(index.into(), 4)
}

fn number(value: u64) -> Vec<u8> {
    integer(value, 8)
}

fn integer(mut value: u64, width: usize) -> Vec<u8> {
    if !POSTCARD {
        return value.to_le_bytes()[..width].to_vec();
    }
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
