// What a workflow keeps in node.properties, checked whenever it is read: workflows come from strangers. Pure functions.

export const Y_AXES = ["log_sigma", "sigma", "lambda", "timestep"], X_AXES = ["step", "progress"];
export const MOST_PINS = 3, MOST_PINNED = 512, MOST_TEXT = 200; // pinned curves, levels of one, characters of a name
export const MOST_REPORT = 65536, MOST_PICTURES = 4, MOST_PICTURE = 196608; // characters of a report, its pictures, characters of one
const MOST_RUNS = 64, MOST_LEVELS = 4096, MOST_ROWS = 200, MOST_COLUMNS = 256;

const isCount = (value, least) => Number.isSafeInteger(value) && value >= least;
const isNumber = (value) => value === null || Number.isFinite(value);
const isNumbers = (value, count) => Array.isArray(value) && value.length === count && value.every(isNumber);
const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isList = (value, most) => Array.isArray(value) && value.length <= most;

// a run as the panels draw it, or null where it is none
function run(value, most) {
  if (!isObject(value) || !isList(value.sigma, most) || !isCount(value.every, 1) || !isCount(value.steps, 0) || !isText(value.name)) return null;
  const made = { name: value.name.slice(0, MOST_TEXT), steps: value.steps, every: value.every };
  for (const name of ["sigma", "lambda", "timestep"]) {
    const values = value[name] ?? null;
    if (values !== null && !isNumbers(values, value.sigma.length)) return null;
    made[name] = values;
  }
  return made;
}

function runs(value, count, most) {
  return (isList(value, count) ? value : []).map((one) => run(one, most)).filter(Boolean);
}

// a solver's plan, or null
function plan(value) {
  if (!isObject(value) || !isList(value.columns, MOST_COLUMNS) || !value.columns.every(isText) || !isList(value.rows, MOST_ROWS)) return null;
  const isCell = (cell) => isNumber(cell) || typeof cell === "boolean" || (isText(cell) && cell.length <= MOST_TEXT);
  if (!value.rows.every((row) => isList(row, MOST_COLUMNS) && row.length === value.columns.length && row.every(isCell))) return null;
  const { columns, rows, stages, nfe, order, steps } = value;
  if (![stages, nfe, order, steps].every(Number.isFinite) || ![value.path, value.solver].every(isText)) return null;
  return { columns, rows, stages, nfe, order, steps, path: value.path.slice(0, MOST_TEXT), solver: value.solver.slice(0, 4 * MOST_TEXT) };
}

// values of the last run: its runs or its plan
function last(value) {
  if (!isObject(value)) return null;
  const seen = runs(value.runs, MOST_RUNS, MOST_LEVELS), table = plan(value.plan);
  return seen.length || table ? { ...(seen.length ? { runs: seen } : {}), ...(table ? { plan: table } : {}) } : null;
}

// the solver of a run, its number of steps, CFG and denoise, and the levels that "auto" chose for it
function took(value) {
  if (!isObject(value) || !isText(value.solver) || value.solver.length > MOST_TEXT || !isCount(value.steps, 1)) return undefined;
  const made = { solver: value.solver, steps: value.steps };
  for (const name of ["cfg", "denoise"]) if (Number.isFinite(value[name])) made[name] = value[name];
  if (isText(value.levels) && value.levels.length <= MOST_REPORT && /^[\d.e+, -]+$/.test(value.levels)) made.levels = value.levels;
  return made;
}

// one of the choices, or undefined
export const oneOf = (choices, value) => (choices.includes(value) ? value : undefined);

// only what is right of what is kept; what is not is as if it were not there
export function checked(value) {
  if (!isObject(value)) return {};
  const made = {
    y: oneOf(Y_AXES, value.y), x: oneOf(X_AXES, value.x),
    curve: isText(value.curve) && value.curve.length <= MOST_TEXT ? value.curve : undefined,
    schedule: isText(value.schedule) && /^[0-9a-f]{32}$/.test(value.schedule) ? value.schedule : undefined,
    run: isText(value.run) && /^[a-z0-9]{1,32}$/.test(value.run) ? value.run : undefined,
    took: took(value.took),
    pins: value.pins === undefined ? undefined : runs(value.pins, MOST_PINS, MOST_PINNED), last: last(value.last) ?? undefined,
  };
  return Object.fromEntries(Object.entries(made).filter(([, entry]) => entry !== undefined));
}

const PICTURE = /^data:image\/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$/;

// a report as its panel shows it, or null: {text, pictures}, the pictures' addresses lead nowhere but to themselves
export function checkedReport(value) {
  if (!isObject(value) || !isText(value.text) || value.text.length > MOST_REPORT || !isList(value.pictures, MOST_PICTURES)) return null;
  const isPicture = (uri) => isText(uri) && uri.length <= MOST_PICTURE && PICTURE.test(uri);
  return value.pictures.every(isPicture) ? { text: value.text, pictures: [...value.pictures] } : null;
}
