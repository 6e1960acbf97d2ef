//! Any of the pipelines, for who does not know at compile time which it will be; a row says by
//! which word of [`Kit`] a program is made for it.

use super::image::ImageSink;
use super::kit::{Kit, NOT_LINKED};
use super::stable_diffusion_xl::StableDiffusionXl;
use super::stages::{Kept, Pipeline, Place, Watch};
use super::text_to_image::TextToImage;
use super::unconditional::Unconditional;
use crate::error::Result;
use crate::mem::Plan;
use crate::ops::Context;

/// Makes of one table the enum of all pipelines and what it hands on to each.
macro_rules! pipelines {
    ($($(#[doc = $doc:literal])* $variant:ident($request:ty) in $kit:ident;)*) => {
        /// A request for one picture, by whichever pipeline.
        #[derive(Clone, Copy, Debug)]
        #[allow(clippy::large_enum_variant, reason = "there is one, for the time of one call")]
        pub enum Work<'a> {
            $($(#[doc = $doc])* $variant($request),)*
        }

        impl Work<'_> {
            /// As [`Pipeline::plan`].
            ///
            /// # Errors
            /// As [`Pipeline::plan`].
            pub fn plan(&self, cx: &mut Context<'_>) -> Result<Plan> {
                match self { $(Self::$variant(pipeline) => pipeline.plan(cx),)* }
            }

            /// As [`Pipeline::plan_with`].
            pub(super) fn plan_with<K: Kit>(&self, cx: &mut Context<'_>) -> Result<Plan> {
                match self {
                    $(Self::$variant(pipeline) if K::$kit => pipeline.plan_with::<K>(cx),)*
                    _ => Err(NOT_LINKED),
                }
            }

            /// As [`Pipeline::run`].
            ///
            /// # Errors
            /// As [`Pipeline::run`].
            pub fn run(
                &self,
                cx: &mut Context<'_>,
                sink: &mut dyn ImageSink,
                watch: &mut Watch<'_>,
            ) -> Result<()> {
                match self { $(Self::$variant(pipeline) => pipeline.run(cx, sink, watch),)* }
            }

            /// Height and width of the picture, in pixels.
            pub fn size(&self) -> [usize; 2] {
                match self { $(Self::$variant(pipeline) => pipeline.size,)* }
            }

            /// What is kept before the first step, in an arena whose top is `base`.
            pub(super) fn kept(&self, base: usize) -> Kept {
                match self { $(Self::$variant(pipeline) => Kept::new(base, pipeline.noise()),)* }
            }

            /// How many calls of [`Work::advance`] a picture takes.
            pub(super) fn calls<K: Kit>(&self) -> usize {
                match self {
                    $(Self::$variant(pipeline) if K::$kit => Place::calls::<_, K>(pipeline),)*
                    _ => 0,
                }
            }

            /// The next step; tells whether more is left.
            pub(super) fn advance<K: Kit>(
                &self,
                cx: &mut Context<'_>,
                place: &mut Place,
                kept: &mut Kept,
            ) -> Result<bool> {
                match self {
                    $(Self::$variant(pipeline) if K::$kit => {
                        place.advance::<_, K>(pipeline, cx, kept)
                    })*
                    _ => Err(NOT_LINKED),
                }
            }
        }
    };
}

pipelines! {
    /// From noise alone.
    Unconditional(Unconditional<'a>) in UNCONDITIONAL;
    /// From a text.
    TextToImage(TextToImage<'a>) in TEXT_TO_IMAGE;
    /// From a text, by Stable Diffusion XL.
    StableDiffusionXl(StableDiffusionXl<'a>) in STABLE_DIFFUSION_XL;
}
