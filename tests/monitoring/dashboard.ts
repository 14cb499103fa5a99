// What tsc checks; the strings in quotes are replaced by the JSON of one dashboard.
import type { Dashboard, Panel } from '@grafana/schema';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { FieldConfig as SeriesFieldConfig, Options as SeriesOptions } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { FieldConfig as TimelineFieldConfig, Options as TimelineOptions } from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';

/** In JSON the members of an enum are their values. */
type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

/** Expressions are an extension of queries that the schema does not know. */
type Expression = { expr?: string };

type Checked<Options, FieldConfig> = Json<Omit<Panel, 'options' | 'fieldConfig'>> & {
  options: Json<Options>;
  fieldConfig: { defaults: Json<Omit<NonNullable<Panel['fieldConfig']>['defaults'], 'custom'>> & { custom?: Json<FieldConfig> }; overrides: unknown[] };
};

export const dashboard: Json<Omit<Dashboard, 'annotations'>> & { annotations: { list: (Json<NonNullable<NonNullable<Dashboard['annotations']>['list']>[number]> & Expression)[] } } = 'DASHBOARD';
export const stats: Checked<StatOptions, object>[] = 'stat';
export const series: Checked<SeriesOptions, SeriesFieldConfig>[] = 'timeseries';
export const timelines: Checked<TimelineOptions, TimelineFieldConfig>[] = 'state-timeline';
