//! Any of the pipelines, for who does not know at compile time which it will be.

use super::image::ImageSink;
use super::stages::{Kept, Pipeline, Place, Watch};
use super::text_to_image::TextToImage;
use super::unconditional::Unconditional;
use crate::error::Result;
use crate::mem::Plan;
use crate::ops::Context;

/// Makes of one table the enum of all pipelines and what it hands on to each.
macro_rules! pipelines {
    ($($(#[doc = $doc:literal])* $variant:ident($request:ty);)*) => {
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
            pub(super) fn calls(&self) -> usize {
                match self { $(Self::$variant(pipeline) => Place::calls(pipeline),)* }
            }

            /// The next step; tells whether more is left.
            pub(super) fn advance(
                &self,
                cx: &mut Context<'_>,
                place: &mut Place,
                kept: &mut Kept,
            ) -> Result<bool> {
                match self { $(Self::$variant(pipeline) => place.advance(pipeline, cx, kept),)* }
            }
        }
    };
}

pipelines! {
    /// From noise alone.
    Unconditional(Unconditional<'a>);
    /// From a text.
    TextToImage(TextToImage<'a>);
}
