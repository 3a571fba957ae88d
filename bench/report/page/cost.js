"use strict";
// The formulas of bench/cost/ and bench/cost/power.py, letter for letter; tests hold the two together.
var Cost = (function () {
  var HOURS_PER_YEAR = 8760, SECONDS_PER_HOUR = 3600, MTOK = 1e6;

  function capitalRecovery(rate, years) {
    if (rate * years < 1e-12) return 1 / years;
    return rate / -Math.expm1(-years * Math.log1p(rate));
  }

  function poweredUsd(basis, v) {
    if (basis === "rent") return v.rent_per_hour;
    var worth = Math.pow(1 + v.rate_of_return, -v.years);
    var salvage = v.price * v.salvage_share * worth;
    var yearly = capitalRecovery(v.rate_of_return, v.years) * (v.price + v.host_price - salvage);
    return yearly / HOURS_PER_YEAR;
  }

  // Watts while busy: at the wall if measured there, else measured + host, else assumed.
  function busyWatts(v, row) {
    if (row.power_w === null) return v.watts_busy;
    return row.wall ? row.power_w : row.power_w + v.watts_host;
  }

  function usdPerBusyHour(basis, v, row) {
    var hours = 1 / v.utilization;
    var hourly = poweredUsd(basis, v) * hours;
    if (basis === "rent") return hourly;
    var wh = v.pue * (busyWatts(v, row) + v.watts_idle * (hours - 1));
    return hourly + v.electricity_per_kwh / 1000 * wh;
  }

  // A row's gpus worked as one: each has the price, and power_w is of one.
  // Dollars for a million tokens at the measured mix, or at v.mix input tokens for each output one.
  // input and output are null where the split was not measured, and so is cost at another mix.
  function price(basis, v, row, tok_s) {
    var perMtok = usdPerBusyHour(basis, v, row) * row.gpus * MTOK / (SECONDS_PER_HOUR * tok_s);
    var found = { cost: perMtok, input: null, output: null };
    if (row.rho !== null) {
      var perRequest = perMtok * (row.n_prompt + row.n_gen) / MTOK;
      var each = perRequest / (row.n_prompt + row.rho * row.n_gen);
      found.input = each * MTOK;
      found.output = each * row.rho * MTOK;
    }
    if (v.mix !== null) {
      found.cost = found.input === null ? null : (found.input * v.mix + found.output) / (v.mix + 1);
    }
    return found;
  }

  return { price: price, usdPerBusyHour: usdPerBusyHour, capitalRecovery: capitalRecovery };
})();
if (typeof module !== "undefined") module.exports = Cost;
