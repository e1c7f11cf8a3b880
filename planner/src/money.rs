//! Failures and money: goodput at Daly's checkpoint interval, and the bill of a run.

use libm::sqrt;
use llmc_plan::plan::{Cost, Ownership};

use crate::hardware::Hardware;
use crate::question::Prices;
use crate::settle;

/// Failures per GPU-hour: 419 unexpected interruptions in 54 days on 16,384 H100 (Llama 3, arXiv 2407.21783, table 5).
pub const FAILURES_PER_GPU_HOUR: f64 = 419.0 / (54.0 * 24.0 * 16384.0);
/// Seconds from a failure to training again; assumed 2026-11: scheduler, NCCL start, checkpoint load.
pub const RESTART_SECONDS: f64 = 900.0;
/// Bytes per second one machine writes of a checkpoint; assumed 2026-11, half of a 100 Gbit/s storage network's 12.5 GB/s,
/// shared by eight machines at most.
pub const WRITER_BANDWIDTH: f64 = 2e9;
/// Power usage effectiveness when none is given: the industry's average (Uptime Institute global survey 2023: 1.58) is
/// old halls; new ones in China must stay below 1.3 (MIIT rule of 2021).
pub const PUE: f64 = 1.3;
/// CNY a kilowatt-hour when none is given; assumed 2026-11, large industrial users in China pay 0.6 to 0.9.
pub const ELECTRICITY_CNY_KWH: f64 = 0.8;

/// Years until a bought server is written off; assumed 2026-11: China's tax law lets electronic equipment be written off
/// over three years at the least (Enterprise Income Tax Law Implementation Regulations, article 60), clouds use four to six.
pub const LIFE_YEARS: f64 = 4.0;
/// Share of its life that a bought device trains; assumed 2026-11, for a cluster that is queued for.
pub const USAGE: f64 = 0.8;
/// Upkeep a year as a share of the price; assumed 2026-11, a server maintenance contract's usual 5 %.
pub const UPKEEP: f64 = 0.05;
/// Seconds of a year.
const YEAR: f64 = 365.25 * 86400.0;

/// Young's interval: √(2δM), δ the cost of a checkpoint, M the mean time between failures (Young 1974).
pub fn young(delta: f64, mtbf: f64) -> f64 {
    sqrt(2.0 * delta * mtbf)
}

/// Daly's interval (2006, equation 20): √(2δM)·[1 + ⅓√(δ/2M) + ⅑(δ/2M)] − δ for δ < 2M, else M.
pub fn daly(delta: f64, mtbf: f64) -> f64 {
    if delta >= 2.0 * mtbf {
        return mtbf;
    }
    let x = delta / (2.0 * mtbf);
    young(delta, mtbf) * (1.0 + sqrt(x) / 3.0 + x / 9.0) - delta
}

/// Share of wall time that trains: a failure every M seconds of wall time loses half an interval τ and the restart R;
/// what is left is training and checkpoints of δ every τ: (1 − (τ/2 + R)/M) / (1 + δ/τ). Never below 1 %.
pub fn goodput(delta: f64, interval: f64, restart: f64, mtbf: f64) -> f64 {
    ((1.0 - (interval / 2.0 + restart) / mtbf) / (1.0 + delta / interval)).max(0.01)
}

/// Prices with the assumed ones filled in, and which those are.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// ISO 4217.
    pub currency: String,
    /// Per device-hour.
    pub gpu_hour: f64,
    /// Kilowatts a device.
    pub power_kw: f64,
    /// Power usage effectiveness.
    pub pue: f64,
    /// Per kilowatt-hour.
    pub electricity_kwh: f64,
    /// Per hour of the run: storage, network, the rest.
    pub storage_hour: f64,
    /// Network.
    pub network_hour: f64,
    /// The rest.
    pub other_hour: f64,
    /// Idle devices per training one.
    pub spares: f64,
    /// A bought device, where its price is given: price an hour of training, and hours of rent that would buy it.
    pub owned: Option<(f64, f64)>,
    /// Names of `cost` keys that were assumed.
    pub assumed: Vec<String>,
}

/// CNY for one unit of a currency; assumed 2026-11, used only to turn assumed CNY prices into the asked currency.
fn cny(currency: &str) -> f64 {
    match currency {
        "USD" => 7.1,
        "EUR" => 8.2,
        _ => 1.0,
    }
}

/// Fills in prices.
pub fn rates(prices: &Prices, hardware: &Hardware) -> Rates {
    let currency = prices.currency.clone().unwrap_or_else(|| "CNY".into());
    let mut assumed = Vec::new();
    let mut fill = |name: &str, given: Option<f64>, otherwise: f64| {
        given.unwrap_or_else(|| {
            assumed.push(name.to_string());
            otherwise
        })
    };
    let unit = cny(&currency);
    let gpu_hour = fill("gpu_per_hour", prices.gpu_hour, hardware.rent_cny_hour / unit);
    let owned = prices.buy.map(|buy| {
        let years = prices.life_seconds.map_or(LIFE_YEARS, |s| s / YEAR).max(1e-3);
        let whole = buy * (1.0 + prices.upkeep.unwrap_or(UPKEEP) * years);
        let hours = years * YEAR / 3600.0 * prices.usage.unwrap_or(USAGE).max(1e-3);
        (whole / hours, whole / gpu_hour.max(1e-9))
    });
    Rates {
        owned,
        storage_hour: prices.storage_hour.unwrap_or(0.0),
        network_hour: prices.network_hour.unwrap_or(0.0),
        spares: prices.spares.unwrap_or(0.0),
        gpu_hour,
        power_kw: fill("power_kw", prices.power_kw, hardware.power_kw),
        pue: fill("pue", prices.pue, PUE),
        electricity_kwh: fill("electricity_per_kwh", prices.electricity_kwh, ELECTRICITY_CNY_KWH / unit),
        other_hour: prices.other_hour.unwrap_or(0.0),
        currency,
        assumed,
    }
}

impl Rates {
    /// Price of an hour of `gpus` devices, electricity and the rest included.
    pub fn hour(&self, gpus: u64) -> f64 {
        let device = self.gpu_hour * (1.0 + self.spares) + self.power_kw * self.pue * self.electricity_kwh;
        gpus as f64 * device + self.storage_hour + self.network_hour + self.other_hour
    }

    /// The bill of `seconds` on `gpus` devices.
    pub fn bill(&self, gpus: u64, seconds: f64) -> Cost {
        let hours = seconds / 3600.0;
        let gpu_hours = gpus as f64 * hours;
        let kwh = self.power_kw * gpu_hours * self.pue;
        let (gpu, electricity) = (gpu_hours * self.gpu_hour, kwh * self.electricity_kwh);
        let (storage, network) = (hours * self.storage_hour, hours * self.network_hour);
        let spares = gpu * self.spares;
        let other = spares + storage + network + hours * self.other_hour;
        let ownership = self.owned.map(|(device_hour, break_even)| Ownership {
            gpu_per_hour: settle(device_hour),
            total: settle(gpu_hours * device_hour * (1.0 + self.spares) + electricity + other - spares),
            break_even_hours: settle(break_even),
        });
        Cost {
            currency: self.currency.clone(),
            gpu_hours: settle(gpu_hours),
            gpu: settle(gpu),
            electricity_kwh: settle(kwh),
            electricity: settle(electricity),
            other: settle(other),
            spares: settle(spares),
            storage: settle(storage),
            network: settle(network),
            failures: 0.0,
            ownership,
            total: settle(gpu + electricity + other),
            gpu_per_hour: settle(self.gpu_hour),
            power_kw: settle(self.power_kw),
            pue: settle(self.pue),
            electricity_per_kwh: settle(self.electricity_kwh),
            assumed: self.assumed.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_meets_the_published_examples() {
        // 30 s a checkpoint, 15 min a restart, 50,700 h a GPU: 64 GPUs fail every 33 days and keep 99.5 %; 16,384 84.6 %.
        let mtbf = |gpus: f64| 3600.0 / (FAILURES_PER_GPU_HOUR * gpus);
        assert!((mtbf(64.0) / 86400.0 - 33.0).abs() < 0.5);
        for (gpus, expected) in [(64.0, 0.995), (1024.0, 0.977), (16384.0, 0.846)] {
            let tau = daly(30.0, mtbf(gpus));
            let got = goodput(30.0, tau, 900.0, mtbf(gpus));
            assert!((got - expected).abs() < 0.012, "{gpus}: {got}");
        }
        assert!((daly(30.0, mtbf(64.0)) / 3600.0 - 3.6).abs() < 0.2);
    }

    #[test]
    fn owning_is_weighed_against_renting() {
        let hardware = crate::hardware::preset("H100").unwrap();
        // 250,000 over four years at 80 %, 5 % upkeep a year: 300,000 over 28,051 h are 10.69 an hour; 18 an hour of rent
        // have paid for it after 16,667 h.
        let prices = Prices {
            gpu_hour: Some(18.0),
            buy: Some(250_000.0),
            spares: Some(0.05),
            storage_hour: Some(10.0),
            network_hour: Some(5.0),
            ..Prices::default()
        };
        let cost = rates(&prices, &hardware).bill(64, 480.0 * 3600.0);
        let own = cost.ownership.clone().unwrap();
        assert!((own.gpu_per_hour - 300_000.0 / (4.0 * 365.25 * 24.0 * 0.8)).abs() < 1e-6);
        assert!((own.break_even_hours - 300_000.0 / 18.0).abs() < 1e-3);
        assert!((cost.spares - 64.0 * 480.0 * 18.0 * 0.05).abs() < 1e-3);
        assert!((cost.total - cost.gpu - cost.electricity - cost.other).abs() < 1e-3);
        assert!((cost.other - cost.spares - 15.0 * 480.0).abs() < 1e-3);
        assert!(own.total < cost.total);
    }

    #[test]
    fn electricity_is_the_formula_of_the_mission() {
        // 0.7 kW × 64 GPUs × 1.3 × 480 h × ¥0.8/kWh.
        let hardware = crate::hardware::preset("H100").unwrap();
        let cost = rates(&Prices::default(), &hardware).bill(64, 480.0 * 3600.0);
        assert_eq!(cost.electricity_kwh, settle(0.7 * 64.0 * 1.3 * 480.0));
        assert_eq!(cost.electricity, settle(0.7 * 64.0 * 1.3 * 480.0 * 0.8));
        assert_eq!(cost.assumed.len(), 4);
    }
}
