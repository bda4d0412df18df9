//! Tokens as text.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The tokens as text without white space. How a stream prints itself differs between compilers; this does not.
pub(super) fn plainly(tokens: TokenStream) -> String {
    let mut text = String::new();
    write_plainly(tokens, &mut text);
    text
}

fn write_plainly(tokens: TokenStream, text: &mut String) {
    for token in tokens {
        let TokenTree::Group(group) = token else {
            text.extend(token.to_string().split_whitespace());
            continue;
        };
        let (open, close) = match group.delimiter() {
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::Brace => ("{", "}"),
            Delimiter::Bracket => ("[", "]"),
            Delimiter::None => ("", ""),
        };
        text.push_str(open);
        write_plainly(group.stream(), text);
        text.push_str(close);
    }
}
