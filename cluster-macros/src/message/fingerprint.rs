//! What two programs compare before they talk: all that decides how a message is encoded, as text.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote};
use syn::Visibility;

use super::model::{Message, Part};
use super::serde::serde_tokens;
use super::text::plainly;

impl Message<'_> {
    /// Names the type and everything that decides how it is encoded, and the types that it is generic over.
    pub(super) fn fingerprint(&self) -> TokenStream {
        let Self { krate, generics, .. } = self;
        let as_written = |part: &Part<'_>| (serde_tokens(&part.serde), part.ty.to_token_stream());
        let schema = self.definition(self.name, &Visibility::Inherited, as_written);
        let version = self.version.map_or_else(String::new, |version| format!(" version {version}"));
        let text = plainly(schema) + &version;
        let types = generics.type_params().map(|parameter| &parameter.ident);
        // The values of const parameters have no text: they are part of the whole type's name.
        let whole = generics.const_params().next().map(|_| quote!(.with_type::<Self>()));
        quote!(#krate::__private::Fingerprint::of(#text)#(.with_type::<#types>())* #whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mistakes::Mistakes;

    #[test]
    fn the_fingerprint_tells_schemas_apart_and_nothing_else() {
        let one = fingerprint(quote!(
            enum M {
                A(u8),
                B { c: Vec<u8> },
            }
        ));
        let same = quote! {
            /// Documented.
            #[non_exhaustive]
            pub enum M {
                /// Too.
                A(#[allow(unused)] u8,),
                B { pub c: Vec<u8>, } = 4,
            }
        };
        assert_eq!(one, fingerprint(same));
        for other in [
            quote!(
                enum N {
                    A(u8),
                    B { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u16),
                    B { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    B { c: Vec<u8> },
                    A(u8),
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { d: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(#[serde(skip)] u8),
                    B { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    Renamed { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { c: std::vec::Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { c: Vec<u8>, d: u8 },
                }
            ),
            quote!(
                enum M {
                    A(u8),
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { c: Vec<u8> },
                    C,
                }
            ),
        ] {
            assert_ne!(one, fingerprint(other));
        }
    }

    #[test]
    fn the_fingerprint_names_what_the_type_is_generic_over() {
        let text = fingerprint(quote!(
            struct M<T: Payload, const N: usize>([T; N]);
        ));
        assert!(text.ends_with(&quote!(.with_type::<T>().with_type::<Self>()).to_string()), "{text}");
    }

    #[test]
    fn the_version_is_part_of_the_fingerprint_and_the_crate_is_not() {
        let plain = fingerprint(quote!(
            struct M(u8);
        ));
        let with = |keys: TokenStream| {
            fingerprint(quote!(
                #[message(#keys)]
                struct M(u8);
            ))
        };
        assert_eq!(with(quote!(crate = "my::cluster")).replacen("my", "", 1).trim_start(), plain);
        let (first, second) = (with(quote!(version = 1)), with(quote!(crate = "::cluster", version = 2)));
        assert!(plain != first && first != second && second != plain, "{plain} {first} {second}");
    }

    fn fingerprint(input: TokenStream) -> String {
        Message::read(&syn::parse2(input).unwrap(), &mut Mistakes::default()).fingerprint().to_string()
    }
}
