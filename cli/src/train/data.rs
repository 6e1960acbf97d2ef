//! What a model is trained on: folders of pictures, and what each shows.
//!
//! What a picture shows stands in a table (`--captions`: a header, then file name, name, keywords,
//! group, with tabs between them) or is the name of the folder it lies in. All folders share one
//! table, and each may have a word for its style, which goes behind its pictures' captions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::draw::{Draw, Fingerprint, Purpose};
use crate::checkpoint;
use crate::error::{Failure, Result};
use crate::files;
use crate::picture::{self, Picture};

/// The longest table that is read.
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// The most bytes that all pictures may take, as they are kept in memory.
const MAX_PICTURE_BYTES: usize = 4 << 30;

/// The endings of pictures, without regard to case; files of others are passed over.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// How many names a sentence lists before it counts the rest.
const NAMED: usize = 3;

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
    let mut reader = Reader { options, skipped: Vec::new(), bytes: 0 };
    let mut examples = Vec::new();
    for folder in folders {
        let found = match &table {
            Some(table) => reader.tabled(folder, table)?,
            None => reader.classes(folder)?,
        };
        for (path, caption) in found {
            if let Some(rgb) = reader.picture(&path)? {
                examples.push(Example { path, caption, rgb });
            }
        }
    }
    let skipped = reader.skipped;
    if examples.is_empty() {
        let names: Vec<_> = folders.iter().map(|f| f.path.display().to_string()).collect();
        let found = if skipped.is_empty() { "no pictures" } else { "no usable pictures" };
        return Err(Failure::new(format!("there are {found} in {}", names.join(", ")))
            .remedy("Give folders of PNG or JPEG files"));
    }
    let kept = held_back(&examples, options)?;
    let (held_out, examples): (Vec<_>, Vec<_>) =
        examples.into_iter().partition(|example| kept.contains(&example.caption.name));
    if examples.is_empty() {
        return Err(Failure::new("every picture is held out, and nothing is left to train on")
            .remedy("Hold out fewer names"));
    }
    Ok(DataSet { examples, held_out, skipped })
}

/// The names that are kept back, in all styles.
fn held_back(examples: &[Example], options: &Options<'_>) -> Result<BTreeSet<String>> {
    let names: BTreeSet<String> = examples.iter().map(|e| e.caption.name.clone()).collect();
    match options.hold_out {
        HoldOut::Count(count) => {
            let mut names: Vec<_> = names.into_iter().collect();
            Draw::new(options.seed, Purpose::HoldOut, 0).shuffle(&mut names);
            Ok(names.into_iter().take(*count).collect())
        }
        HoldOut::Names(path) => {
            let text = read_text(path)?;
            let listed = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let kept: BTreeSet<_> = listed.map(String::from).collect();
            match kept.iter().find(|name| !names.contains(*name)) {
                Some(name) => Err(Failure::new(format!(
                    "{} holds out {name:?}, and no picture has that name",
                    path.display()
                ))
                .remedy("Write one name a line, as the captions have it")),
                None => Ok(kept),
            }
        }
    }
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(files::read(path, MAX_TABLE_BYTES)?).map_err(|_| {
        Failure::new(format!("{} is not UTF-8", path.display())).remedy("Save it as UTF-8")
    })
}

/// The captions by the names of files, and where they came from.
struct Table<'a> {
    path: &'a Path,
    captions: BTreeMap<String, Caption>,
}

/// Reads a table: a header that names the columns, then a line for each picture.
fn read_table(path: &Path) -> Result<Table<'_>> {
    let (text, shown) = (read_text(path)?, path.display());
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

/// The names of pictures among files.
fn pictures(names: Vec<String>) -> Vec<String> {
    let is_picture = |name: &String| {
        let ending = Path::new(name).extension().map(|e| e.to_string_lossy().to_lowercase());
        !name.starts_with('.') && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    };
    names.into_iter().filter(is_picture).collect()
}

/// `a, b, c and 12 more`.
fn listed(names: &[&String]) -> String {
    let first: Vec<_> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
    match names.len() - first.len() {
        0 => first.join(", "),
        rest => format!("{} and {rest} more", first.join(", ")),
    }
}

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
        Err(Failure::new(what).remedy(format!("{remedy}, or pass over such with --skip-bad")))
    }

    /// The pictures of a folder with captions from a table.
    fn tabled(&mut self, folder: &Folder, table: &Table<'_>) -> Result<Found> {
        let names = pictures(checkpoint::list(&folder.path)?);
        let (shown, path) = (table.path.display(), folder.path.display());
        let without: Vec<_> =
            names.iter().filter(|name| !table.captions.contains_key(*name)).collect();
        if !without.is_empty() {
            let what = format!("{shown} has no caption for {} in {path}", listed(&without));
            self.bad(what, "Add a line for each, or take them away")?;
        }
        let there: BTreeSet<_> = names.iter().collect();
        let missing: Vec<_> = table.captions.keys().filter(|file| !there.contains(file)).collect();
        if !missing.is_empty() && !names.is_empty() {
            let what = format!(
                "{path} has no picture {}, for which {shown} has captions",
                listed(&missing)
            );
            self.bad(what, "Take the lines away")?;
        }
        let with_caption = |name: &String| {
            let caption = table.captions.get(name)?;
            let caption = Caption { style: folder.style.clone(), ..caption.clone() };
            Some((folder.path.join(name), caption))
        };
        Ok(names.iter().filter_map(with_caption).collect())
    }

    /// The pictures of a folder's folders, each a class.
    fn classes(&mut self, folder: &Folder) -> Result<Found> {
        let names = checkpoint::list(&folder.path)?;
        let (mut found, style) = (Vec::new(), &folder.style);
        for class in names.iter().filter(|name| folder.path.join(name).is_dir()) {
            let inside = folder.path.join(class);
            let (name, style) = (class.clone(), style.clone());
            let caption = Caption { name, style, ..Caption::default() };
            let pictures = pictures(checkpoint::list(&inside)?).into_iter();
            found.extend(pictures.map(|name| (inside.join(name), caption.clone())));
        }
        let loose = pictures(names);
        if !self.options.captioned {
            let caption = Caption { style: style.clone(), ..Caption::default() };
            found.extend(loose.into_iter().map(|n| (folder.path.join(n), caption.clone())));
        } else if !loose.is_empty() {
            let (path, loose) = (folder.path.display(), loose.iter().collect::<Vec<_>>());
            let what = format!("nothing says what {} in {path} show", listed(&loose));
            self.bad(what, "Give a table with --captions, or put them in folders named so")?;
        }
        Ok(found)
    }

    /// The pixels of a picture at the size of training; `None` where it is passed over.
    fn picture(&mut self, path: &Path) -> Result<Option<Vec<u8>>> {
        let [height, width] = self.options.size;
        let picture = match picture::read(path) {
            Ok(picture) => picture,
            Err(failure) if self.options.skip_bad => {
                self.skipped.push(failure.to_string().trim_end_matches('.').into());
                return Ok(None);
            }
            Err(failure) => return Err(failure),
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
            let most = crate::size::show(MAX_PICTURE_BYTES as u64);
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
        assert!(said(path, &strict).contains("b.png is no PNG, JPEG or WebP picture"));
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
