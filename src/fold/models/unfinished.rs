//! Files that are there as a whole or not at all.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::ModelError;

/// A file under another name, until it is whole; removed unless it is kept.
pub(in crate::fold) struct Unfinished {
    pub(in crate::fold) at: PathBuf,
    path: PathBuf,
}

impl Unfinished {
    fn of(path: &Path) -> Result<Self, ModelError> {
        // A device, say, would no longer be there under its name.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let what = "it is there and no file, and so it is not replaced";
            return Err(ModelError::io(path)(io::Error::new(io::ErrorKind::AlreadyExists, what)));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.unfinished", std::process::id()));
        Ok(Self { at: name.into(), path: path.to_owned() })
    }

    pub(in crate::fold) fn write(
        path: &Path,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<Self, ModelError> {
        let unfinished = Self::of(path)?;
        let file = File::create(&unfinished.at).map_err(ModelError::io(path))?;
        let mut to = BufWriter::new(file);
        write(&mut to).and_then(|()| to.flush()).map_err(ModelError::io(path))?;
        Ok(unfinished)
    }

    pub(in crate::fold) fn copy(from: &Path, path: &Path) -> Result<Self, ModelError> {
        let unfinished = Self::of(path)?;
        fs::copy(from, &unfinished.at).map_err(ModelError::io(path))?;
        Ok(unfinished)
    }

    pub(in crate::fold) fn keep(self) -> Result<(), ModelError> {
        fs::rename(&self.at, &self.path).map_err(ModelError::io(&self.path))
    }
}

/// A file that was there, out of the way of another; back under its name unless it is given up.
pub(in crate::fold) struct SetAside {
    at: PathBuf,
    path: PathBuf,
}

impl SetAside {
    /// `None` where there is no file.
    pub(in crate::fold) fn of(path: &Path) -> Result<Option<Self>, ModelError> {
        if !path.exists() {
            return Ok(None);
        }
        let mut at = path.as_os_str().to_owned();
        at.push(format!(".{}.before", std::process::id()));
        let aside = Self { at: at.into(), path: path.to_owned() };
        fs::rename(path, &aside.at).map_err(ModelError::io(path))?;
        Ok(Some(aside))
    }

    pub(in crate::fold) fn give_up(self) {
        // Then there is nothing to put back.
        let _ = fs::remove_file(&self.at);
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let _ = fs::rename(&self.at, &self.path);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it has its name there is nothing to remove; and what cannot be removed is not the error to report.
        let _ = fs::remove_file(&self.at);
    }
}
