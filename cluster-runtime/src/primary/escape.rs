//! PURE: makes text of workers harmless for a terminal: no control character passes, but each shows.
//!
//! With one a worker could clear the screen, move the cursor, and write what looks like a line of the primary or of another worker.

/// Appends `line` to `text`, with `\x1b` and the like in place of control characters: C0 but for the tab, DEL, and C1, in UTF-8 or as
/// a byte by itself.
pub(super) fn escape(line: &[u8], text: &mut Vec<u8>) {
    // One look at clean ASCII, and at clean text of most other kinds.
    if !line.iter().any(|byte| may_control(*byte)) {
        return text.extend_from_slice(line);
    }
    for chunk in line.utf8_chunks() {
        escape_characters(chunk.valid(), text);
        for byte in chunk.invalid() {
            match byte {
                0x80..=0x9f => show(*byte, text),
                _ => text.push(*byte),
            }
        }
    }
}

/// Whether such a byte is a control character, or may be a part of one.
const fn may_control(byte: u8) -> bool {
    matches!(byte, 0..=0x08 | 0x0a..=0x1f | 0x7f..=0x9f)
}

fn escape_characters(mut clean: &str, text: &mut Vec<u8>) {
    let is_control = |character: char| character.is_control() && character != '\t';
    while let Some((at, control)) = clean.char_indices().find(|(_, character)| is_control(*character)) {
        text.extend_from_slice(&clean.as_bytes()[..at]);
        // Control characters end at 0x9f.
        show(control as u8, text);
        clean = &clean[at + control.len_utf8()..];
    }
    text.extend_from_slice(clean.as_bytes());
}

fn show(byte: u8, text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.extend_from_slice(&[b'\\', b'x', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(line: impl AsRef<[u8]>) -> Vec<u8> {
        let mut text = Vec::new();
        escape(line.as_ref(), &mut text);
        text
    }

    #[test]
    fn control_characters_show_and_all_else_is_as_it_was() {
        for (line, shown) in [
            (&b"plain text, \\x1b too"[..], &b"plain text, \\x1b too"[..]),
            (b"\x1b[2Jgone", b"\\x1b[2Jgone"),
            (b"over\rwritten", b"over\\x0dwritten"),
            (b"nul\0 tab\t bell\x07 back\x08 del\x7f", b"nul\\x00 tab\t bell\\x07 back\\x08 del\\x7f"),
            ("csi\u{9b}31m nel\u{85}".as_bytes(), b"csi\\x9b31m nel\\x85"),
            // Bytes that are continuations of something else.
            ("é€🦀 ÿ \u{a0}💛".as_bytes(), "é€🦀 ÿ \u{a0}💛".as_bytes()),
            // Latin-1, in which 0x9b is a control character and 0xe9 is none.
            (b"caf\xe9 \x9b31m", b"caf\xe9 \\x9b31m"),
            // Cut short, too long, a surrogate: no UTF-8.
            (b"\xc2", b"\xc2"),
            (b"\xe2\x82", b"\xe2\\x82"),
            (b"\xc1\x9b", b"\xc1\\x9b"),
            (b"\xed\xa0\x80", b"\xed\xa0\\x80"),
            (b"\xc2\x1b\x9b", b"\xc2\\x1b\\x9b"),
        ] {
            let found = escaped(line);
            assert_eq!(found, shown, "{} for {}", found.escape_ascii(), line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_terminal_finds_a_control_character_in_it(line: Vec<u8>) {
            let found = escaped(&line);
            prop_assert!(!found.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f));
            for chunk in found.utf8_chunks() {
                prop_assert!(!chunk.valid().chars().any(|character| character.is_control() && character != '\t'));
                prop_assert!(!chunk.invalid().iter().any(|byte| (0x80..=0x9f).contains(byte)));
            }
        }

        #[test]
        fn clean_text_is_not_touched(line in "[^\\p{Cc}]*") {
            prop_assert_eq!(escaped(&line), line.as_bytes());
        }
    }
}
