//! The fields that answer: `Reply<T>` and `Replies<T>`, told by how they are written.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{GenericArgument, Ident, Path, PathArguments, Type};

/// Which handle it is, and the `T`, of a type that is written `Reply<T>` or `Replies<T>`, by whatever path.
pub(super) fn handle(ty: &Type) -> Option<(Handle, &Type)> {
    match ty {
        Type::Group(group) => handle(&group.elem),
        Type::Paren(paren) => handle(&paren.elem),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            let handle = Handle::called(&last.ident)?;
            let PathArguments::AngleBracketed(list) = &last.arguments else { return None };
            match list.args.first() {
                Some(GenericArgument::Type(answer)) if list.args.len() == 1 => Some((handle, answer)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Handle {
    Reply,
    Replies,
}

impl Handle {
    pub(super) fn called(name: &Ident) -> Option<Self> {
        [Self::Reply, Self::Replies].into_iter().find(|handle| name == handle.name())
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reply => "Reply",
            Self::Replies => "Replies",
        }
    }

    /// What makes the number of it.
    pub(super) fn into_tag(self, krate: &Path) -> TokenStream {
        match self {
            Self::Reply => quote!(#krate::__private::reply_tag),
            Self::Replies => quote!(#krate::__private::replies_tag),
        }
    }

    /// What makes it of the number; and a name for a field.
    pub(super) const fn maker(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Replies => "replies",
        }
    }
}
