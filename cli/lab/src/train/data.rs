//! What a model is trained on: folders of pictures, and what each shows.
//!
//! What a picture shows stands in a table (`--captions`: a header, then file name, name, keywords,
//! group, with tabs between them) or is the name of the folder it lies in. All folders share one
//! table, and each may have a word for its style, which goes behind its pictures' captions.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::draw::{Draw, Fingerprint, Purpose};
use super::folder;
use mote_host::error::{Failure, Result};
use mote_host::image::Picture;
use mote_host::{files, size};

/// The longest table that is read.
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// The most bytes that all pictures may take, as they are kept in memory.
const MAX_PICTURE_BYTES: usize = 4 << 30;

/// How many names a sentence lists before it counts the rest.
const NAMED: usize = 3;

/// How far down it is looked for pictures where a folder has none.
const DEPTH: usize = 3;

/// A folder of pictures, and the word for their style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// What is put behind its captions; nothing where it is empty.
    pub style: String,
}

impl FromStr for Folder {
    type Err = String;

    /// `FOLDER` or `FOLDER:STYLE`. A folder whose own name has a colon is taken as it is.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.rsplit_once(':') {
            Some((path, style))
                if !Path::new(text).exists()
                    && !style.contains(['/', '\\'])
                    && !path.is_empty() =>
            {
                if style.trim().is_empty() {
                    return Err("there is no word behind the colon".into());
                }
                Ok(Self { path: path.into(), style: style.trim().into() })
            }
            _ => Ok(Self { path: text.into(), style: String::new() }),
        }
    }
}

/// What a picture shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caption {
    /// Its name.
    pub name: String,
    /// Words that go with it.
    pub keywords: Vec<String>,
    /// The word for its style, if there is one.
    pub style: String,
    /// The group it belongs to, if the table has such a column.
    pub group: String,
}

impl Caption {
    /// The name and the style: what a sample of it is asked for with.
    pub fn prompt(&self) -> String {
        self.with_style(self.name.clone())
    }

    /// The same under another name, which keywords need not fit.
    pub fn renamed(&self, name: &str) -> Self {
        Self { name: name.into(), keywords: Vec::new(), ..self.clone() }
    }

    fn with_style(&self, mut text: String) -> String {
        if !self.style.is_empty() {
            text.push_str(if text.is_empty() { "" } else { ", " });
            text.push_str(&self.style);
        }
        text
    }

    /// A text for training: nothing in a share `dropout` of cases; else the name, or in a share
    /// `keywords` of cases the name with a few keywords behind it or, as often, those alone.
    pub fn draw(&self, dropout: f64, keywords: f64, draw: &mut Draw) -> String {
        let [drops, wordy, alone] = [draw.unit(), draw.unit(), draw.unit()];
        if drops < dropout {
            return String::new();
        }
        if self.keywords.is_empty() || wordy >= keywords {
            return self.prompt();
        }
        let mut chosen: Vec<&str> = self.keywords.iter().map(String::as_str).collect();
        draw.shuffle(&mut chosen);
        chosen.truncate(1 + draw.below(MOST_KEYWORDS));
        if alone >= 0.5 {
            chosen.insert(0, &self.name);
        }
        self.with_style(chosen.join(", "))
    }

    /// The longest text that [`Caption::draw`] may yield, where it draws keywords.
    pub fn longest(&self, keywords: f64) -> String {
        let mut chosen: Vec<&str> = self.keywords.iter().map(String::as_str).collect();
        if keywords <= 0.0 || chosen.is_empty() {
            return self.prompt();
        }
        chosen.sort_by_key(|word| std::cmp::Reverse(word.len()));
        chosen.truncate(MOST_KEYWORDS);
        chosen.insert(0, &self.name);
        self.with_style(chosen.join(", "))
    }
}

/// The most keywords in one caption: more would not fit beside a name.
const MOST_KEYWORDS: usize = 3;

/// Channels of a coloured picture.
pub const COLOURS: usize = 3;

/// A picture and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The file.
    pub path: PathBuf,
    /// What it shows.
    pub caption: Caption,
    /// Its pixels, row by row.
    pub rgb: Vec<u8>,
}

impl Example {
    /// Its values, from -1 to 1.
    pub fn values(&self) -> impl Iterator<Item = f32> {
        self.rgb.iter().map(|&byte| f32::from(byte) / 255.0 * 2.0 - 1.0)
    }
}

/// Height, width and channels of a sample that is a picture of this size in blocks of pixels.
pub fn sample([height, width]: [usize; 2], block: usize) -> [usize; 3] {
    [height / block, width / block, COLOURS * block * block]
}

/// Which pictures there are, and which of them are kept back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Folders of pictures.
    pub folders: Vec<Folder>,
    /// The table of captions; without one a picture shows what its folder is called.
    pub captions: Option<PathBuf>,
    /// Whether pictures of another size are cut to its proportions and resized.
    pub resize: bool,
    /// Whether what cannot be used is passed over instead of refused.
    pub skip_bad: bool,
    /// Which names are kept back.
    pub hold_out: HoldOut,
}

impl Source {
    /// Reads the pictures, of this size; `captioned` says whether captions are needed, and `seed`
    /// draws the names that are kept back.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&self, captioned: bool, size: [usize; 2], seed: u64) -> Result<DataSet> {
        let Self { folders, captions, resize, skip_bad, hold_out } = self;
        let (captions, resize, skip_bad) = (captions.as_deref(), *resize, *skip_bad);
        let options = Options { captions, captioned, size, resize, skip_bad, hold_out, seed };
        read(folders, &options)
    }
}

/// How a data set is read.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The table of captions; without one a picture shows what its folder is called.
    pub captions: Option<&'a Path>,
    /// Whether captions are needed at all.
    pub captioned: bool,
    /// Height and width of the pictures.
    pub size: [usize; 2],
    /// Whether pictures of another size are cut to its proportions and resized.
    pub resize: bool,
    /// Whether what cannot be used is passed over instead of refused.
    pub skip_bad: bool,
    /// Which names are kept back.
    pub hold_out: &'a HoldOut,
    /// The seed that chooses them, where they are to be drawn.
    pub seed: u64,
}

/// Which names are kept back from training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldOut {
    /// So many, drawn.
    Count(usize),
    /// Those in a file, one a line.
    Names(PathBuf),
}

impl FromStr for HoldOut {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ok(text.parse().map_or_else(|_| Self::Names(text.into()), Self::Count))
    }
}

/// Pictures to train on, and pictures kept back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataSet {
    /// To train on.
    pub examples: Vec<Example>,
    /// Kept back.
    pub held_out: Vec<Example>,
    /// What was passed over, as sentences.
    pub skipped: Vec<String>,
}

impl DataSet {
    /// A number that stands for all pictures and captions to train on.
    pub fn fingerprint(&self) -> u64 {
        let mut print = Fingerprint::default();
        for example in &self.examples {
            let Caption { name, keywords, style, group } = &example.caption;
            [name, style, group].iter().for_each(|text| print.add(text.as_bytes()));
            print.add(keywords.join(",").as_bytes());
            print.add(&example.rgb);
        }
        print.value()
    }
}

/// Reads the pictures of all folders.
///
/// # Errors
/// Where there are none, or one of them or its caption cannot be used and that is not to be passed
/// over.
pub fn read(folders: &[Folder], options: &Options<'_>) -> Result<DataSet> {
    let table = options.captions.map(read_table).transpose()?;
    // Read first: its want would else be told after an hour of pictures.
    let listed = options.hold_out.names()?;
    let mut reader = Reader { options, skipped: Vec::new(), bytes: 0 };
    let (mut examples, mut empty) = (Vec::new(), Vec::new());
    for folder in folders {
        let before = reader.skipped.len();
        let found = match &table {
            Some(table) => reader.tabled(folder, table)?,
            None => reader.classes(folder)?,
        };
        if found.is_empty() && reader.skipped.len() == before {
            empty.push(folder.path.as_path());
        }
        for (path, caption) in found {
            if let Some(rgb) = reader.picture(&path)? {
                examples.push(Example { path, caption, rgb });
            }
        }
    }
    let skipped = reader.skipped;
    if !empty.is_empty() {
        return Err(no_pictures("no pictures", &empty, options));
    }
    if examples.is_empty() {
        let all: Vec<_> = folders.iter().map(|folder| folder.path.as_path()).collect();
        return Err(no_pictures("no usable pictures", &all, options));
    }
    let kept = held_back(&examples, options, listed)?;
    let (held_out, examples): (Vec<_>, Vec<_>) =
        examples.into_iter().partition(|example| kept.contains(&example.caption.name));
    if examples.is_empty() {
        return Err(Failure::new("every picture is held out, and nothing is left to train on")
            .remedy("Hold out fewer names"));
    }
    Ok(DataSet { examples, held_out, skipped })
}

/// Folders have no pictures. Where folders inside them have, these are named.
fn no_pictures(what: &str, folders: &[&Path], options: &Options<'_>) -> Failure {
    let names = listed(folders.iter().map(|path| path.display().to_string()));
    let failure = Failure::new(format!("there are {what} in {names}"));
    // Where a folder is a caption, the folder around it is what --data takes.
    let has_classes = options.captioned && options.captions.is_none();
    let deeper = folders.iter().flat_map(|path| folder::with_pictures(path, DEPTH));
    let deeper = deeper.filter_map(|path| match has_classes {
        true => path.parent().map(Path::to_path_buf),
        false => Some(path),
    });
    let deeper: BTreeSet<_> = deeper.filter(|path| !folders.contains(&path.as_path())).collect();
    if deeper.is_empty() {
        return failure.remedy("Give --data folders of PNG, JPEG or WebP files");
    }
    let deeper = listed(deeper.iter().map(|path| path.display().to_string()));
    failure.remedy(format!("Folders inside have some: give those to --data ({deeper})"))
}

impl HoldOut {
    /// The names in the file, where there is one.
    fn names(&self) -> Result<BTreeSet<String>> {
        let Self::Names(path) = self else { return Ok(BTreeSet::new()) };
        let text = files::text(path, MAX_TABLE_BYTES)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(lines.map(String::from).collect())
    }
}

/// The names that are kept back, in all styles: those listed, or so many.
fn held_back(
    examples: &[Example],
    options: &Options<'_>,
    listed: BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let names: BTreeSet<String> = examples.iter().map(|e| e.caption.name.clone()).collect();
    match options.hold_out {
        HoldOut::Count(count) => {
            let mut names: Vec<_> = names.into_iter().collect();
            Draw::new(options.seed, Purpose::HoldOut, 0).shuffle(&mut names);
            Ok(names.into_iter().take(*count).collect())
        }
        HoldOut::Names(path) => match listed.iter().find(|name| !names.contains(*name)) {
            Some(name) => Err(Failure::new(format!(
                "{} holds out {name:?}, and no picture has that name",
                path.display()
            ))
            .remedy("Write one name a line, as the captions have it")),
            None => Ok(listed),
        },
    }
}

/// The captions by the names of files, and where they came from.
struct Table<'a> {
    path: &'a Path,
    captions: BTreeMap<String, Caption>,
}

/// Reads a table: a header that names the columns, then a line for each picture.
fn read_table(path: &Path) -> Result<Table<'_>> {
    let (text, shown) = (files::text(path, MAX_TABLE_BYTES)?, path.display());
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header: Vec<&str> = lines.next().map_or("", |(_, line)| line).split('\t').collect();
    let column = |name: &str| header.iter().position(|found| found.trim() == name);
    let (Some(filename), Some(name)) = (column("filename"), column("name")) else {
        return Err(Failure::new(format!("{shown} does not begin with names of columns"))
            .remedy("Its first line must be: filename, name, keywords, with tabs between them"));
    };
    let [keywords, group] = ["keywords", "group"].map(column);
    let mut captions = BTreeMap::new();
    for (number, line) in lines {
        let cells: Vec<&str> = line.split('\t').map(str::trim).collect();
        let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
        let (file, name) = (cell(filename), cell(name));
        if file.is_empty() || name.is_empty() {
            return Err(Failure::new(format!("{shown}, line {}: a cell is empty", number + 1))
                .remedy("Each line needs a file's name and what it shows"));
        }
        let words = keywords.map_or("", cell).split(',').map(str::trim);
        let keywords = words.filter(|word| !word.is_empty()).map(String::from).collect();
        let group = group.map_or("", cell).into();
        let caption = Caption { name: name.into(), keywords, group, ..Caption::default() };
        if captions.insert(file.to_string(), caption).is_some() {
            return Err(Failure::new(format!("{shown} has two captions for {file}"))
                .remedy("Leave one of them out"));
        }
    }
    Ok(Table { path, captions })
}

/// A picture's file, and what it shows.
type Found = Vec<(PathBuf, Caption)>;

/// `a, b, c and 12 more`.
fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    let (first, rest) = names.split_at(names.len().min(NAMED));
    match rest.len() {
        0 => first.join(", "),
        rest => format!("{} and {rest} more", first.join(", ")),
    }
}

/// Names as a sentence shows them.
fn shown<'n>(names: impl IntoIterator<Item = &'n OsString>) -> String {
    listed(names.into_iter().map(|name| name.to_string_lossy().into_owned()))
}

/// What helps with whatever cannot be used.
const SKIP: &str = "pass over such with --skip-bad";

struct Reader<'a> {
    options: &'a Options<'a>,
    skipped: Vec<String>,
    bytes: usize,
}

impl Reader<'_> {
    /// Passes over what cannot be used, where that is asked for.
    fn bad(&mut self, what: String, remedy: &str) -> Result<()> {
        if self.options.skip_bad {
            self.skipped.push(what);
            return Ok(());
        }
        Err(Failure::new(what).remedy(remedy).or(SKIP))
    }

    /// Tells of pictures in folders that nobody asked for.
    fn too_deep(&mut self, folder: &Path, inside: &[OsString]) {
        for path in inside.iter().map(|name| folder.join(name)) {
            let count = folder::list(&path).unwrap_or_default().pictures.len();
            if count > 0 {
                let what = if count == 1 { "one picture" } else { "pictures" };
                self.skipped.push(format!("{what} in {}, a folder too deep", path.display()));
            }
        }
    }

    /// The pictures of a folder with captions from a table.
    fn tabled(&mut self, folder: &Folder, table: &Table<'_>) -> Result<Found> {
        let found = folder::list(&folder.path)?;
        let names = found.pictures;
        if names.is_empty() {
            return Ok(Found::new());
        }
        self.too_deep(&folder.path, &found.folders);
        let (source, path) = (table.path.display(), folder.path.display());
        let caption = |name: &OsString| table.captions.get(name.to_str()?);
        let without: Vec<_> = names.iter().filter(|name| caption(name).is_none()).collect();
        if !without.is_empty() {
            let what = format!("{source} has no caption for {} in {path}", shown(without));
            self.bad(what, "Add a line for each, or take them away")?;
        }
        let there: BTreeSet<_> = names.iter().filter_map(|name| name.to_str()).collect();
        let missing = table.captions.keys().filter(|file| !there.contains(file.as_str()));
        let missing = listed(missing.cloned());
        if !missing.is_empty() {
            let what = format!("{path} has no picture {missing}, for which {source} has captions");
            self.bad(what, "Take the lines away")?;
        }
        let with_caption = |name: &OsString| {
            let caption = Caption { style: folder.style.clone(), ..caption(name)?.clone() };
            Some((folder.path.join(name), caption))
        };
        Ok(names.iter().filter_map(with_caption).collect())
    }

    /// The pictures of a folder's folders, each a class.
    fn classes(&mut self, folder: &Folder) -> Result<Found> {
        let listing = folder::list(&folder.path)?;
        let (mut found, style) = (Found::new(), &folder.style);
        for class in &listing.folders {
            let inside = folder.path.join(class);
            let folder::Listing { pictures, folders } = folder::list(&inside)?;
            self.too_deep(&inside, &folders);
            let name = match class.to_str() {
                Some(name) => name.to_string(),
                // Nobody is told its name.
                None if !self.options.captioned => String::new(),
                None if pictures.is_empty() => continue,
                None => {
                    let what = "is not UTF-8, and no caption can be";
                    let what = format!("the name of the folder {} {what}", inside.display());
                    self.bad(what, "Rename it")?;
                    continue;
                }
            };
            let caption = Caption { name, style: style.clone(), ..Caption::default() };
            found.extend(pictures.into_iter().map(|name| (inside.join(name), caption.clone())));
        }
        let loose = listing.pictures;
        if !self.options.captioned {
            let caption = Caption { style: style.clone(), ..Caption::default() };
            found.extend(loose.into_iter().map(|n| (folder.path.join(n), caption.clone())));
        } else if !loose.is_empty() {
            let path = folder.path.display();
            let what = format!("nothing says what {} in {path} show", shown(&loose));
            self.bad(what, "Give a table with --captions, or put them in folders named so")?;
        }
        Ok(found)
    }

    /// The pixels of a picture at the size of training; `None` where it is passed over.
    fn picture(&mut self, path: &Path) -> Result<Option<Vec<u8>>> {
        let [height, width] = self.options.size;
        let picture = match mote_host::image::read(path) {
            Ok(picture) => picture,
            Err(failure) if self.options.skip_bad => {
                self.skipped.push(failure.to_string().trim_end_matches('.').into());
                return Ok(None);
            }
            Err(failure) => return Err(failure.or(SKIP)),
        };
        let picture = match [picture.height, picture.width] == self.options.size {
            true => picture,
            false if self.options.resize => {
                cut(picture, self.options.size).resized([height, width])
            }
            false => {
                let (shown, found) = (path.display(), [picture.width, picture.height]);
                let [w, h] = found;
                let what = format!("{shown} is {w}x{h}, and the model draws {width}x{height}");
                self.bad(what, "Resize such pictures with --resize")?;
                return Ok(None);
            }
        };
        self.bytes += picture.rgb.len();
        if self.bytes > MAX_PICTURE_BYTES {
            let most = size::show(MAX_PICTURE_BYTES as u64);
            return Err(Failure::new(format!("the pictures take more than {most} of memory"))
                .remedy("Take fewer, or smaller ones"));
        }
        Ok(Some(picture.rgb))
    }
}

/// The middle of a picture, with the proportions of `size`.
fn cut(picture: Picture, [height, width]: [usize; 2]) -> Picture {
    let (w, h) = (picture.width, picture.height);
    let [new_w, new_h] = match w * height > h * width {
        true => [(h * width / height).max(1), h],
        false => [w, (w * height / width).max(1)],
    };
    let (left, top) = ((w - new_w) / 2, (h - new_h) / 2);
    let rows = picture.rgb.chunks_exact(3 * w).skip(top).take(new_h);
    let rgb = rows.flat_map(|row| &row[3 * left..3 * (left + new_w)]).copied().collect();
    Picture { width: new_w, height: new_h, rgb }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn png(path: &Path, [width, height]: [u32; 2], rgb: [u8; 3]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(width, height, image::Rgb(rgb)).save(path).unwrap();
    }

    const NONE: HoldOut = HoldOut::Count(0);

    fn options(captions: Option<&Path>) -> Options<'_> {
        let (captioned, size) = (true, [4, 4]);
        let (resize, skip_bad) = (false, false);
        Options { captions, captioned, size, resize, skip_bad, hold_out: &NONE, seed: 1 }
    }

    /// A folder with `a.png` and `b.png`, and their table.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        png(&folder.path().join("a.png"), [4, 4], [255, 0, 0]);
        png(&folder.path().join("b.png"), [4, 4], [0, 255, 0]);
        let table = folder.path().join("captions.tsv");
        let text = "filename\tname\tkeywords\tgroup\na.png\tred\tone, two\tx\nb.png\tgreen\t\tx\n";
        fs::write(&table, text).unwrap();
        (folder, table)
    }

    fn of(path: &Path) -> Vec<Folder> {
        vec![Folder { path: path.into(), style: String::new() }]
    }

    fn said(folder: &Path, options: &Options<'_>) -> String {
        read(&of(folder), options).unwrap_err().to_string()
    }

    #[test]
    fn a_style_stands_behind_a_colon() {
        let of = |text: &str| Folder::from_str(text).unwrap();
        assert_eq!(of("a/b"), Folder { path: "a/b".into(), style: "".into() });
        assert_eq!(of("a/b:3d"), Folder { path: "a/b".into(), style: "3d".into() });
        assert_eq!(of("c:\\b").style, "");
        assert!(Folder::from_str("a:").is_err());
    }

    #[test]
    fn pictures_get_the_captions_of_the_table_and_the_style_of_their_folder() {
        let (folder, table) = folder();
        let folders =
            ["", "3d"].map(|style| Folder { path: folder.path().into(), style: style.into() });
        let set = read(&folders, &options(Some(&table))).unwrap();
        let prompts: Vec<_> = set.examples.iter().map(|e| e.caption.prompt()).collect();
        assert_eq!(prompts, ["red", "green", "red, 3d", "green, 3d"]);
        assert_eq!(set.examples[0].caption.keywords, ["one", "two"]);
        assert_eq!(set.examples[1].rgb[..3], [0, 255, 0]);
    }

    #[test]
    fn without_a_table_the_folder_says_what_a_picture_shows() {
        let folder = tempfile::tempdir().unwrap();
        png(&folder.path().join("blue heart/1.PNG"), [4, 4], [0, 0, 255]);
        let set = read(&of(folder.path()), &options(None)).unwrap();
        assert_eq!(set.examples[0].caption.name, "blue heart");
        png(&folder.path().join("2.png"), [4, 4], [0, 0, 255]);
        assert!(said(folder.path(), &options(None)).contains("nothing says what 2.png"));
        let loose = Options { captioned: false, ..options(None) };
        assert_eq!(read(&of(folder.path()), &loose).unwrap().examples.len(), 2);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_or_passed_over() {
        let (folder, table) = folder();
        let path = folder.path();
        png(&path.join("c.png"), [4, 4], [1, 2, 3]);
        let strict = options(Some(&table));
        assert!(said(path, &strict).contains("has no caption for c.png in"));
        fs::remove_file(path.join("c.png")).unwrap();
        fs::remove_file(path.join("b.png")).unwrap();
        assert!(said(path, &strict).contains("has no picture b.png, for which"));
        png(&path.join("b.png"), [5, 4], [1, 2, 3]);
        assert!(said(path, &strict).contains("b.png is 5x4, and the model draws 4x4. Resize"));
        fs::write(path.join("b.png"), "no picture").unwrap();
        let no_picture = said(path, &strict);
        assert!(no_picture.contains("b.png is no PNG, JPEG or WebP picture"), "{no_picture}");
        assert!(no_picture.ends_with(", or pass over such with --skip-bad."), "{no_picture}");
        let lenient = Options { skip_bad: true, ..strict };
        let set = read(&of(path), &lenient).unwrap();
        assert_eq!((set.examples.len(), set.skipped.len()), (1, 1));
        fs::write(path.join("a.png"), "").unwrap();
        assert!(said(path, &lenient).contains("no usable pictures"));
        let empty = tempfile::tempdir().unwrap();
        assert!(said(empty.path(), &lenient).contains("there are no pictures in"));
        assert!(said(&path.join("gone"), &lenient).contains("no such file"));
    }

    #[test]
    fn pictures_are_used_or_named() {
        let (folder, table) = folder();
        let path = folder.path();
        fs::write(path.join("b.png"), "GIF89a").unwrap();
        fs::rename(path.join("b.png"), path.join("b.gif")).unwrap();
        let text = fs::read_to_string(&table).unwrap().replace("b.png", "b.gif");
        fs::write(&table, text).unwrap();
        let strict = options(Some(&table));
        assert!(said(path, &strict).contains("b.gif is no PNG, JPEG or WebP picture"));
        let lenient = Options { skip_bad: true, ..strict };
        assert!(read(&of(path), &lenient).unwrap().skipped[0].contains("b.gif"));
        // A class's folder in a class's folder is no class.
        let classes = tempfile::tempdir().unwrap();
        png(&classes.path().join("red/1.png"), [4, 4], [255, 0, 0]);
        png(&classes.path().join("red/more/2.png"), [4, 4], [255, 0, 0]);
        png(&classes.path().join("red/.ipynb_checkpoints/1.png"), [4, 4], [255, 0, 0]);
        png(&classes.path().join(".thumbnails/1.png"), [4, 4], [255, 0, 0]);
        png(&classes.path().join("__MACOSX/1.png"), [4, 4], [255, 0, 0]);
        for captioned in [true, false] {
            let set = read(&of(classes.path()), &Options { captioned, ..options(None) }).unwrap();
            assert_eq!(set.examples.len(), 1);
            assert_eq!(set.skipped.len(), 1);
            assert!(set.skipped[0].contains("more, a folder too deep"), "{:?}", set.skipped);
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf_8_are_used_or_named() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes;
        png(&folder.path().join("red").join(name(b"\x90\xd4.png")), [4, 4], [255, 0, 0]);
        assert_eq!(read(&of(folder.path()), &options(None)).unwrap().examples.len(), 1);
        png(&folder.path().join(name(b"\x90\xc2")).join("1.png"), [4, 4], [0, 0, 255]);
        let error = said(folder.path(), &options(None));
        assert!(error.contains("is not UTF-8") && error.contains("--skip-bad"), "{error}");
        let lenient = Options { skip_bad: true, ..options(None) };
        let set = read(&of(folder.path()), &lenient).unwrap();
        assert_eq!((set.examples.len(), set.skipped.len()), (1, 1));
        let untold = Options { captioned: false, ..options(None) };
        assert_eq!(read(&of(folder.path()), &untold).unwrap().examples.len(), 2);
        let table = folder.path().join("captions.tsv");
        fs::write(&table, "filename\tname\n1.png\tred\n").unwrap();
        let red = folder.path().join("red");
        assert!(said(&red, &options(Some(&table))).contains("has no caption for"));
    }

    #[test]
    fn folders_without_pictures_are_refused_and_those_inside_named() {
        let root = tempfile::tempdir().unwrap();
        let [flat, full] = ["flat", "full"].map(|name| root.path().join(name));
        let table = root.path().join("captions.tsv");
        fs::write(&table, "filename\tname\na.png\tred\n").unwrap();
        for path in [flat.join("32/a.png"), flat.join("64/a.png"), full.join("a.png")] {
            png(&path, [4, 4], [255, 0, 0]);
        }
        let both = [of(&full), of(&flat)].concat();
        let error = read(&both, &options(Some(&table))).unwrap_err().to_string();
        let [small, large] = ["32", "64"].map(|name| flat.join(name).display().to_string());
        let expected = format!("no pictures in {}. Folders inside", flat.display());
        assert!(error.contains(&expected), "{error}");
        assert!(error.contains(&format!("({small}, {large})")), "{error}");
        // Where a folder's name is the caption, the one around it is meant.
        let outer = tempfile::tempdir().unwrap();
        png(&outer.path().join("set/train/red/1.png"), [4, 4], [255, 0, 0]);
        let error = said(outer.path(), &options(None));
        let inner = outer.path().join("set/train").display().to_string();
        assert!(error.contains(&format!("({inner})")), "{error}");
    }

    #[test]
    fn tables_and_lists_are_read_however_they_were_saved() {
        let (folder, table) = folder();
        let held = folder.path().join("held.txt");
        let text = fs::read_to_string(&table).unwrap();
        let hold_out = HoldOut::Names(held.clone());
        let options = Options { hold_out: &hold_out, ..options(Some(&table)) };
        let marked = |text: &str| format!("\u{FEFF}{text}").into_bytes();
        let wide = |text: &str| {
            let units = text.encode_utf16().flat_map(u16::to_le_bytes);
            [0xFF, 0xFE].into_iter().chain(units).collect::<Vec<u8>>()
        };
        let list = "green\n";
        let [windows, windows_list] = [&text, list].map(|text: &str| text.replace('\n', "\r\n"));
        for [table_bytes, list_bytes] in [
            [text.clone().into_bytes(), list.into()],
            [marked(&text), marked(list)],
            [marked(&windows), marked(&windows_list)],
            [wide(&windows), wide(&windows_list)],
        ] {
            fs::write(&table, table_bytes).unwrap();
            fs::write(&held, list_bytes).unwrap();
            let set = read(&of(folder.path()), &options).unwrap();
            assert_eq!(set.examples[0].caption.keywords, ["one", "two"]);
            assert_eq!(set.held_out[0].caption.name, "green");
        }
    }

    #[test]
    fn a_list_that_is_not_there_is_told_before_the_folders() {
        let hold_out = HoldOut::Names("gone.txt".into());
        let error = said(Path::new("no folder"), &Options { hold_out: &hold_out, ..options(None) });
        assert!(error.contains("cannot open gone.txt"), "{error}");
    }

    #[test]
    fn a_damaged_table_is_refused_with_its_line() {
        let (folder, table) = folder();
        for (text, part) in [
            ("a.png\tred\n", "does not begin with names"),
            ("", "does not begin with names"),
            ("filename\tname\na.png\t\n", "line 2: a cell is empty"),
            ("filename\tname\na.png\tx\na.png\ty\n", "two captions for a.png"),
        ] {
            fs::write(&table, text).unwrap();
            let said = said(folder.path(), &options(Some(&table)));
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn other_sizes_are_cut_in_the_middle_and_resized() {
        let rgb: Vec<u8> = (0..6).flat_map(|x| [x, 0, 0]).collect();
        let wide = Picture { width: 6, height: 1, rgb };
        assert_eq!(cut(wide.clone(), [1, 2]).rgb, [2, 0, 0, 3, 0, 0]);
        assert_eq!(cut(wide, [4, 4]).width, 1);
        let (folder, table) = folder();
        png(&folder.path().join("b.png"), [9, 5], [7, 8, 9]);
        let options = Options { resize: true, ..options(Some(&table)) };
        let set = read(&of(folder.path()), &options).unwrap();
        assert_eq!(set.examples[1].rgb, [7, 8, 9].repeat(16));
    }

    #[test]
    fn names_are_held_out_by_number_and_by_list() {
        let (folder, table) = folder();
        let with = |hold_out: &HoldOut| {
            read(&of(folder.path()), &Options { hold_out, ..options(Some(&table)) })
        };
        let set = with(&HoldOut::Count(1)).unwrap();
        assert_eq!((set.examples.len(), set.held_out.len()), (1, 1));
        assert!(with(&HoldOut::Count(2)).unwrap_err().to_string().contains("nothing is left"));
        let list = folder.path().join("held");
        fs::write(&list, "green\n\n").unwrap();
        let set = with(&HoldOut::Names(list.clone())).unwrap();
        assert_eq!(set.held_out[0].caption.name, "green");
        fs::write(&list, "blue").unwrap();
        assert!(with(&HoldOut::Names(list)).unwrap_err().to_string().contains("\"blue\""));
    }

    #[test]
    fn captions_are_drawn_in_the_shares_asked_for() {
        let keywords = ["fruit", "food", "sweet", "round"].map(String::from).into();
        let caption = Caption {
            name: "red apple".into(),
            keywords,
            style: "3d".into(),
            ..Caption::default()
        };
        let (mut empty, mut plain, mut alone) = (0, 0, 0);
        for place in 0..4000 {
            let mut draw = Draw::new(3, Purpose::Caption, place);
            let text = caption.draw(0.1, 0.3, &mut draw);
            empty += usize::from(text.is_empty());
            plain += usize::from(text == "red apple, 3d");
            alone += usize::from(!text.is_empty() && !text.starts_with("red apple"));
            assert!(text.is_empty() || text.ends_with(", 3d"));
        }
        assert!((340..460).contains(&empty), "{empty}");
        assert!((2400..2640).contains(&plain), "{plain}");
        assert!((460..620).contains(&alone), "{alone}");
    }
}
